"""Does from Python what ``atrous predict`` does, in one process, several, or on a cluster."""

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from atrous.engines.machine import usable_processors
from atrous.errors import AtrousError, unknown_name
from atrous.images.stores import place
from atrous.predict.batch import PLAIN, Extras, Outcome, checked_share, segment_files, shown
from atrous.predict.find import AS_FRAMES, Picture, find_pictures, of_first_channel, refuse_videos
from atrous.predict.index import indexed
from atrous.predict.jobs import segment_in_jobs
from atrous.predict.on_ray import segment_on_ray
from atrous.predict.predictor import Predictor
from atrous.predict.tar_out import is_tar, segment_into_tar
from atrous.predict.video import OnFrame

if TYPE_CHECKING:
    from atrous.model import DeepLabV3Plus

_MOST_STREAMS = 8  # each holds the memory of a picture
_PICTURES_A_STREAM = 4


def segment_many(
    paths: Iterable[str | Path],
    model: "str | Path | DeepLabV3Plus | Predictor | None" = None,
    out: str | Path = "masks",
    *,
    extras: Extras = PLAIN,
    overwrite: bool = False,
    jobs: int | None = None,
    engine: Literal["ray"] | None = None,
    address: str | None = None,
    index: str | Path | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Segments many pictures into a folder, as ``atrous predict`` does.

    With more than one job, the script that calls this needs the usual
    ``if __name__ == "__main__":``, because each worker process imports it.

    Args:
        paths: Pictures, folders of pictures, patterns; addresses in stores.
        model: As in `Predictor`, or a Predictor.
        out: The folder of the output, an address in a store, or a tar file ``NAME.tar``.
        extras: Files beside labels and JSON.
        overwrite: Whether to do finished pictures anew.
        jobs: Number of worker processes, or of Ray's actors. None: this process; with Ray, one for
            each processor, on a cluster all but one.
        engine: ``ray``: Ray Data instead of worker processes.
        address: Of a running Ray cluster; None: one on this machine, for this call.
        index: A Parquet file of all records; see `indexed`.
        on_outcome: Called with the outcome of each picture when it is known.
        options: Of `Predictor`.

    Returns:
        A record for each picture, in order: the content of its JSON without its bookkeeping, or
        ``{"input", "error", "code"}``.

    Raises:
        AtrousError: Nothing to do, output would replace other files, the disk is full, or
            several jobs with a model that is neither a name nor a path.
    """
    found = find_pictures(paths, place(out), videos=not (extras.probabilities or extras.cutouts))
    if isinstance(model, Predictor):
        predictor = model
    else:
        streams = streams_for(found.pictures, options.get("threads"), jobs, engine)
        predictor = Predictor(model, **{"streams": streams, **options})
    found = of_first_channel(found, predictor.bands)
    outcomes = []
    done = segmented(
        predictor, {**options, "model": model}, found.pictures, place(out), jobs=jobs,
        engine=engine, address=address, overwrite=overwrite, extras=extras,
    )  # fmt: skip
    for outcome in indexed(done, None if index is None else place(index)):
        outcomes.append((outcome.place, shown(outcome)))
        if on_outcome is not None:
            on_outcome(outcome)
    return [record for _, record in sorted(outcomes, key=lambda pair: pair[0])]


def streams_for(
    pictures: Sequence[Picture], threads: int | None, jobs: int | None, engine: str | None
) -> int:
    """Returns how many pictures this process should see at a time.

    A video is seen frame by frame, and few pictures do not repay the models for many.
    """
    if jobs not in (None, 1) or engine is not None or any(one.is_video for one in pictures):
        return 1
    streams = min(threads or usable_processors(), _MOST_STREAMS)
    return streams if len(pictures) >= _PICTURES_A_STREAM * streams else 1


def segmented(
    predictor: Predictor,
    options: dict[str, Any],
    pictures: Sequence[Picture],
    out: Path,
    *,
    jobs: int | None,
    overwrite: bool,
    extras: Extras,
    engine: Literal["ray"] | None = None,
    address: str | None = None,
    shard: tuple[int, int] = (1, 1),
    on_frame: OnFrame | None = None,
) -> Generator[Outcome, None, None]:
    """Segments found pictures where the options say; see `segment_many`.

    Args:
        predictor: The model for one process; its precision is that of all workers.
        options: The arguments of the Predictor, from which each worker makes its own.
        pictures: From `find_pictures`.
        out: The folder of the output, or a tar file.
        jobs: As in `segment_many`.
        overwrite: Whether to do finished pictures anew.
        extras: Files beside labels and JSON.
        engine: As in `segment_many`.
        address: As in `segment_many`.
        shard: (i, n): do the i-th of n equal shares, i from 1.
        on_frame: With one job, called after each frame of a video; see `segment_video`.

    Raises:
        AtrousError: As `segment_many`.
    """
    if address and engine is None:
        raise AtrousError(
            "E-JOBS",
            "an address of a cluster without an engine",
            where=address,
            fix="name the engine too: --engine ray, or engine='ray'",
        )
    for name in (*extras.probabilities, *extras.cutouts):
        if name not in predictor.classes:
            raise unknown_name("class", name, predictor.classes)
        refuse_videos(pictures, "--probability and --cutout are not for videos", AS_FRAMES)
    if is_tar(out):
        again = partial(
            segmented, predictor, options,
            jobs=jobs, overwrite=overwrite, extras=extras, shard=shard, engine=engine,
        )  # fmt: skip
        yield from segment_into_tar(again, pictures, out, engine=engine)
        return
    if jobs in (None, 1) and engine is None:
        yield from segment_files(
            predictor, pictures, out,
            overwrite=overwrite, extras=extras, shard=shard, on_frame=on_frame,
        )  # fmt: skip
        return
    if not isinstance(options["model"], (str, Path, type(None))):
        raise AtrousError(
            "E-JOBS",
            "several jobs need a name or a path of a model, not a "
            f"{type(options['model']).__name__}",
            fix="save the model and name the file, or use one job",
        )
    chosen = {**options, "precision": predictor.precision}
    work = checked_share(pictures, out, extras, shard), out, extras, overwrite
    if engine is None:
        yield from segment_in_jobs(chosen, *work, jobs=jobs or 1)
    else:
        yield from segment_on_ray(chosen, *work, actors=jobs, address=address)
