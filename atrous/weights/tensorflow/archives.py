"""Unpacks tar and zip archives from untrusted sources.

Only regular files and folders are unpacked. Links, devices, encrypted or sparse members and names
that lead out of the target are refused. Unpacked bytes are counted while they are written. An
archive inside an archive is an ordinary file and is never opened.
"""

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, BinaryIO, cast

from atrous.errors import AtrousError, ResourceError

_CHUNK = 1 << 20  # bytes read at once, and the longest header that a tar member may have
_COMPRESSION: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_ZIP_END = b"PK\x05\x06"  # end of central directory record
_ZIP64_LOCATOR = b"PK\x06\x07"
_READ_ERRORS = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError,
    ValueError, KeyError, IndexError, NotImplementedError, RuntimeError,
)  # fmt: skip
_FIXES = {
    "E-ARCHIVE-PATH": "do not trust this archive; get it again from its publisher",
    "E-ARCHIVE-SIZE": "do not trust this archive; if it is really yours, unpack it and name the "
    "folder",
    "E-ARCHIVE-FORMAT": "the file is damaged or of another kind; get it again",
}


@dataclass(frozen=True)
class Limits:
    """Limits of what an archive may unpack to.

    Args:
        members: Files and folders.
        size: Total bytes of all files.
        ratio: Unpacked bytes per byte of the archive; 16 MiB are always allowed.
    """

    members: int = 10_000
    size: int = 8 << 30
    ratio: int = 100

    def bytes_from(self, archive: Path) -> int:
        """Returns how many bytes this archive may unpack to."""
        return min(self.size, max(16 << 20, archive.stat().st_size * self.ratio))


@contextmanager
def unpacked(archive: Path, limits: Limits | None = None) -> Iterator[Path]:
    """Yields a temporary folder with the archive's files, and removes it after the block.

    Args:
        archive: A ``.tar``, ``.tar.gz``, ``.tgz``, ``.tar.bz2``, ``.tar.xz`` or ``.zip`` file. The
            kind is read from its content, not from its name.
        limits: Limits of what it may unpack to.

    Raises:
        AtrousError: ``E-ARCHIVE-PATH`` for a member that must not be written, with its name;
            ``E-ARCHIVE-SIZE`` beyond a limit; ``E-ARCHIVE-FORMAT`` for an unreadable archive;
            ``E-DISK-FULL`` if the temporary folder is too small.
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="atrous-") as folder:
        try:
            if zipfile.is_zipfile(archive):
                _unpack_zip(archive, Path(folder), limits)
            else:
                _unpack_tar(archive, Path(folder), limits)
        except AtrousError:
            raise
        except OSError as error:
            raise _system_error(archive, error) from None
        except _READ_ERRORS as error:
            raise _broken(archive, error) from None
        yield Path(folder)


def _unpack_tar(archive: Path, target: Path, limits: Limits) -> None:
    budget = _Budget(archive, limits)
    with archive.open("rb") as raw, _decompressed(raw) as stream:
        capped = cast(IO[bytes], _Capped(stream, budget))
        with tarfile.open(fileobj=capped, mode="r:") as members:
            for member in members:
                budget.count_member()
                path = _inside(archive, target, member.name)
                if member.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse:
                    raise _refused(archive, member.name, "is not a regular file")
                content = members.extractfile(member)
                assert content is not None  # it is a regular file
                _write(archive, member.name, content, path, member.size)


def _unpack_zip(archive: Path, target: Path, limits: Limits) -> None:
    budget = _Budget(archive, limits)
    _check_zip_directory(archive, budget)  # zipfile reads the directory into memory whole
    with zipfile.ZipFile(archive) as members:
        for member in members.infolist():
            path = _inside(archive, target, member.filename)
            if member.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise _refused(archive, member.filename, "is not a regular file")
            if member.flag_bits & 0x1:
                raise _refused(archive, member.filename, "is encrypted")
            with members.open(member) as content:
                capped = cast(IO[bytes], _Capped(cast(BinaryIO, content), budget))
                _write(archive, member.filename, capped, path, member.file_size)


def _check_zip_directory(archive: Path, budget: "_Budget") -> None:
    with archive.open("rb") as file:
        file.seek(-min(archive.stat().st_size, 20 + 22 + 65_535), 2)  # the record and its comment
        tail = file.read()
    start = tail.rfind(_ZIP_END)
    if _ZIP64_LOCATOR in tail[max(0, start - 20) : start]:
        raise _too_large(archive, "a 64-bit directory, for more than 4 GiB or 65534 members")
    budget.count_member(int.from_bytes(tail[start + 10 : start + 12], "little"))
    if int.from_bytes(tail[start + 12 : start + 16], "little") > 1024 * budget.limits.members:
        raise _too_large(archive, "a directory too long for its members")


def _write(archive: Path, name: str, content: IO[bytes], path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            shutil.copyfileobj(content, file, _CHUNK)
            written = file.tell()
    except FileExistsError:
        raise _refused(archive, name, "occurs twice") from None
    if written != size:
        raise _broken(archive, f"member {name!r} has {written} bytes of {size}")


def _inside(archive: Path, target: Path, name: str) -> Path:
    """Returns the path of a member, after a check that it is inside `target`."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if "\0" in name or "\\" in name or posix.is_absolute() or windows.drive or ".." in posix.parts:
        raise _refused(archive, name, "leads out of the folder")
    path = target / posix
    if not path.resolve().is_relative_to(target.resolve()):
        raise _refused(archive, name, "leads out of the folder")
    return path


@contextmanager
def _decompressed(raw: BinaryIO) -> Iterator[BinaryIO]:
    start = raw.read(6)
    raw.seek(0)
    for magic, decompress in _COMPRESSION.items():
        if start.startswith(magic):
            with decompress(raw, "rb") as stream:
                yield cast(BinaryIO, stream)
            return
    yield raw


class _Budget:
    """Counts down an archive's limits."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self.archive = archive
        self.limits = limits
        self.allowed = limits.bytes_from(archive)
        self.members = 0

    def count_member(self, number: int = 1) -> None:
        self.members += number
        if self.members > self.limits.members:
            raise _too_large(self.archive, f"more than {self.limits.members} members")

    def take(self, size: int) -> None:
        self.allowed -= size
        if self.allowed < 0:
            allowed = self.limits.bytes_from(self.archive)
            raise _too_large(self.archive, f"more than the {allowed} bytes it may unpack to")


class _Capped:
    """A stream that counts the bytes it reads, headers included, against a budget.

    tarfile reads a header into memory whole, whatever length the header claims. Refusing reads of
    more than a megabyte bounds that.
    """

    def __init__(self, stream: BinaryIO, budget: _Budget) -> None:
        self.stream = stream
        self.budget = budget

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _CHUNK:
            raise _too_large(self.budget.archive, f"a header of {size} bytes")
        content = self.stream.read(size)
        self.budget.take(len(content))
        return content

    def seek(self, position: int) -> int:
        while (here := self.stream.tell()) < position:
            if not self.read(min(_CHUNK, position - here)):
                break
        return here

    def tell(self) -> int:
        return self.stream.tell()


def _refused(archive: Path, name: str, why: str) -> AtrousError:
    return _error("E-ARCHIVE-PATH", archive, f"member {name!r} {why}; nothing was unpacked")


def _too_large(archive: Path, what: str) -> AtrousError:
    return _error("E-ARCHIVE-SIZE", archive, f"the archive holds {what}; nothing was unpacked")


def _broken(archive: Path, why: object) -> AtrousError:
    return _error("E-ARCHIVE-FORMAT", archive, f"not a readable archive: {why}")


def _error(code: str, archive: Path, what: str) -> AtrousError:
    return AtrousError(code, what, where=archive, fix=_FIXES[code])


def _system_error(archive: Path, error: OSError) -> AtrousError:
    if not isinstance(error, gzip.BadGzipFile) and error.errno is not None:
        return ResourceError(
            "E-DISK-FULL" if error.errno == 28 else "E-FILE-ACCESS",
            f"the archive cannot be unpacked in {tempfile.gettempdir()}: {error.strerror}",
            where=archive,
            fix="free some space or set TMPDIR to a larger disk",
        )
    return _broken(archive, error)
