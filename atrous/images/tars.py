"""Pictures in tar files that are not unpacked: WebDataset's shards.

Files of the same name up to the first dot belong together: ``0001.jpg`` and ``0001.mask.png``.
"""

import re
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from atrous.errors import DataError
from atrous.images.decode import SUFFIXES
from atrous.images.stores import Named, read_range

_MASK = re.compile(r"mask|seg|label|target|gt")


class Member(NamedTuple):
    """A file within a tar file."""

    name: str
    shard: Path
    offset: int
    size: int

    def read(self) -> BytesIO:
        """Returns its bytes as a stream that knows its name."""
        return Named(read_range(self.shard, self.offset, self.size), str(self))

    def __str__(self) -> str:
        """Returns shard and name, for messages."""
        return f"{self.shard}: {self.name}"


def opened(source: Path | Member) -> Path | BytesIO:
    """Returns what `read_image` takes: a path, or the bytes of a file within a tar file."""
    return source.read() if isinstance(source, Member) else source


def samples_in(shard: Path) -> dict[str, list[Member]]:
    """Walks a tar file once; returns its pictures and masks by their common name.

    Raises:
        AtrousError: It is no whole, uncompressed tar file.
    """
    samples: dict[str, list[Member]] = {}
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                path = PurePosixPath(info.name)
                if info.isreg() and not info.issparse() and path.suffix.lower() in SUFFIXES:
                    name = str(path.with_name(path.name.partition(".")[0]))
                    member = Member(info.name, shard, info.offset_data, info.size)
                    samples.setdefault(name, []).append(member)
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            "E-DATA-SHARD",
            f"not a whole, uncompressed tar file: {error}",
            where=shard,
            fix="write the file again without compression: pictures are compressed already",
        ) from None
    return samples


def is_mask(member: Member, sample: Sequence[Member]) -> bool:
    """Returns whether a member has the name of a mask, or is the PNG beside a photograph."""
    extension = PurePosixPath(member.name).name.partition(".")[2].lower()
    called = [_MASK.search(PurePosixPath(m.name).name.partition(".")[2].lower()) for m in sample]
    if any(called):
        return _MASK.search(extension) is not None
    return extension == "png" and len(sample) > 1
