"""The last step of ``atrous predict --annotate``: finished pictures become annotations."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from atrous.errors import AtrousError
from atrous.images.pages import split_page
from atrous.images.stores import is_address
from atrous.predict import annotate
from atrous.predict.batch import Outcome
from atrous.predict.coco import write_coco
from atrous.predict.find import Picture
from atrous.predict.records import taken

# Kinds of annotations, and how the tool takes them; {target} is the file or folder.
IMPORT = {
    "labelme": "labelme FOLDER_OF_THE_PICTURES --output {target}",
    "cvat": "make a task of the pictures, then Actions > Upload annotations > CVAT 1.1",
    "coco": "import it beside the pictures as COCO 1.0, instances",
    "yolo": "put the pictures into images/ beside it",
    "label-studio": 'import it into a project with <Image name="image" value="$image"/> and '
    '<BrushLabels name="label" toName="image">',
}
# People correct these files in place: one for each picture, with this suffix, in this folder.
_CORRECTED_IN_PLACE = {"labelme": ("", ".json"), "yolo": ("labels", ".txt")}


class Written(NamedTuple):
    """What was written: the file or folder to import, and numbers of pictures."""

    target: Path
    written: int
    kept: int  # their files were there before and may be corrected


class PreAnnotations:
    """Writes the annotations of a call's finished pictures; what forbids them is said before.

    Args:
        kind: A key of `IMPORT`.
        pictures: All pictures of the call.
        out: The folder of the output; annotations go into the folder ``kind`` in it. Each shard
            has a folder of its own around that.
        tolerance: As in `atrous.predict.annotate.write_annotations`.
        overwrite: Whether to replace files that people correct in place.
        shard: (i, n), as in `segment_files`.

    Raises:
        AtrousError: A picture that is no file, or one whose record would lie among the annotations.
    """

    def __init__(
        self,
        kind: str,
        pictures: Sequence[Picture],
        out: Path,
        *,
        tolerance: float = annotate.TOLERANCE,
        overwrite: bool = False,
        shard: tuple[int, int] = (1, 1),
    ) -> None:
        self._kind, self._pictures = kind, pictures
        self._out = out if shard[1] == 1 else out / f"{shard[0]}-of-{shard[1]}"
        self._tolerance, self._overwrite = tolerance, overwrite
        self._check(out, self._out / kind)

    def _check(self, records: Path, folder: Path) -> None:
        if is_address(folder):
            raise AtrousError(
                "E-ANNOTATE", "annotations are files that a tool reads, and this is an address",
                where=folder, fix="name a folder with --out",
            )  # fmt: skip
        if folder.exists() and not folder.is_dir():
            raise taken("annotations need a folder, and this is a file", folder)
        for picture in self._pictures:
            if not picture.is_file or split_page(picture.path)[1] is not None:
                raise AtrousError(
                    "E-ANNOTATE", "annotations name the file of a picture, and this one has none",
                    where=picture.path, fix="save the picture and name its file",
                )  # fmt: skip
            if (records / picture.stem).is_relative_to(folder):
                what = f"its record would lie among the annotations in {folder}"
                fix = "rename its folder, or annotate it in another call"
                raise taken(what, picture.path, fix)

    def how_to_import(self, target: str) -> str:
        """Returns a sentence on how the tool takes the file or folder."""
        return IMPORT[self._kind].format(target=target)

    def write(self, outcomes: Sequence[Outcome], classes: Sequence[str]) -> Written:
        """Writes the annotations of pictures without an error.

        Raises:
            AtrousError: A label file is gone.
        """
        if self._kind == "coco":
            target = self._out / "coco" / "instances.json"
            write_coco(target, outcomes, classes, tolerance=self._tolerance, background=False)
            return Written(target, len(outcomes), 0)
        finished = [self._annotated(outcome) for outcome in outcomes]
        missing = [picture for picture in finished if self._overwrite or not self._there(picture)]
        target = annotate.write_annotations(
            self._kind, missing, classes, self._out, tolerance=self._tolerance
        )
        return Written(target, len(missing), len(finished) - len(missing))

    def _annotated(self, outcome: Outcome) -> annotate.Picture:
        record = outcome.record
        assert record is not None
        height, width = record["size"]
        return annotate.Picture(
            outcome.path, Path(record["labels"]), (height, width),
            self._pictures[outcome.place - 1].stem, record.get("confidence"),
        )  # fmt: skip

    def _there(self, picture: annotate.Picture) -> bool:
        if self._kind not in _CORRECTED_IN_PLACE:
            return False
        folder, suffix = _CORRECTED_IN_PLACE[self._kind]
        return (self._out / self._kind / folder / f"{picture.name}{suffix}").exists()
