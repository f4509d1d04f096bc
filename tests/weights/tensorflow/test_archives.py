import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from atrous.errors import AtrousError
from atrous.weights.tensorflow.archives import Limits, unpacked


def tar_with(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_with(path: Path, *members: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, content in members:
            archive.writestr(info, content)
    return path


def refusal(archive: Path, limits: Limits | None = None) -> AtrousError:
    """Returns the error that unpacking an archive raises."""
    with pytest.raises(AtrousError) as caught, unpacked(archive, limits):
        pass
    return caught.value


def everything_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.fixture
def staging(tmp_path, monkeypatch):
    """An empty folder that unpacking uses for its temporary ones."""
    folder = tmp_path / "staging"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.mark.parametrize("suffix", ["w:gz", "w:bz2", "w:xz", "w"])
def test_files_of_a_tar_are_there_until_the_block_ends(tmp_path, staging, suffix):
    archive = tmp_path / "a"
    with tarfile.open(archive, suffix) as tar:
        tar.addfile(member("model", tarfile.DIRTYPE))
        info = member("model/weights.bin")
        info.size = 600
        tar.addfile(info, io.BytesIO(b"x" * 600))
    with unpacked(archive) as folder:
        assert (folder / "model/weights.bin").read_bytes() == b"x" * 600
    assert not everything_below(staging)


def test_files_of_a_zip_are_there(tmp_path):
    archive = zip_with(tmp_path / "a.zip", ("model/", b""), ("model/weights.bin", b"abc"))
    with unpacked(archive) as folder:
        assert (folder / "model/weights.bin").read_bytes() == b"abc"


@pytest.mark.parametrize(
    "name", ["../outside", "model/../../outside", "/outside", "..", "a\\..\\outside", "C:outside"]
)
@pytest.mark.parametrize("pack", ["tar", "zip"])
def test_W01_archive_member_outside_target(tmp_path, staging, name, pack):
    if pack == "tar":
        archive = tar_with(tmp_path / "a.tgz", (member("fine"), b"1"), (member(name), b"2"))
    else:
        archive = zip_with(tmp_path / "a.zip", ("fine", b"1"), (name, b"2"))
    before = everything_below(tmp_path)
    error = refusal(archive)
    assert error.code == "E-ARCHIVE-PATH"
    assert repr(name) in str(error)
    assert everything_below(tmp_path) == before  # nothing written, staging folder removed


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
@pytest.mark.parametrize("link", ["fine", "/etc/passwd"])
def test_W01_links_and_devices_in_a_tar_are_refused(tmp_path, staging, kind, link):
    odd = member("odd", kind, link)
    error = refusal(tar_with(tmp_path / "a.tgz", (member("fine"), b"1"), (odd, b"")))
    assert error.code == "E-ARCHIVE-PATH"
    assert "'odd' is not a regular file" in str(error)
    assert not everything_below(staging)


def test_W01_symlink_in_a_zip_is_refused(tmp_path):
    link = zipfile.ZipInfo("odd")
    link.external_attr = 0o120777 << 16
    error = refusal(zip_with(tmp_path / "a.zip", (link, b"/etc/passwd")))
    assert "'odd' is not a regular file" in str(error)


def test_W01_writing_through_an_earlier_link_is_impossible(tmp_path, staging):
    outside = tmp_path / "outside"
    outside.mkdir()
    door = member("door", tarfile.SYMTYPE, str(outside))
    error = refusal(tar_with(tmp_path / "a.tgz", (door, b""), (member("door/file"), b"1")))
    assert "'door'" in str(error)
    assert not everything_below(outside)


def test_W01_a_name_that_occurs_twice_is_refused(tmp_path):
    archive = tar_with(tmp_path / "a.tgz", (member("same"), b"1"), (member("same"), b"2"))
    assert "'same' occurs twice" in str(refusal(archive))


@pytest.mark.parametrize("pack", ["tar", "zip"])
def test_W02_bomb_is_stopped_while_it_comes_out(tmp_path, staging, pack):
    zeros = bytes(20 << 20)  # packs to some 20 kB: a ratio of a thousand
    if pack == "tar":
        archive = tar_with(tmp_path / "a.tgz", (member("bomb"), zeros))
    else:
        archive = zip_with(tmp_path / "a.zip", ("bomb", zeros))
    error = refusal(archive)
    assert error.code == "E-ARCHIVE-SIZE"
    assert "more than the 16777216 bytes" in str(error)
    assert not everything_below(staging)


@pytest.mark.parametrize("pack", ["tar", "zip"])
def test_W02_too_many_members_are_refused(tmp_path, pack):
    names = [f"member{i}" for i in range(11)]
    if pack == "tar":
        archive = tar_with(tmp_path / "a.tgz", *((member(name), b"") for name in names))
    else:
        archive = zip_with(tmp_path / "a.zip", *((name, b"") for name in names))
    assert "more than 10 members" in str(refusal(archive, Limits(members=10)))
    with unpacked(archive, Limits(members=11)) as folder:
        assert len(everything_below(folder)) == 11


def test_W02_a_header_that_claims_gigabytes_is_not_read_into_memory(tmp_path):
    header = member("path", tarfile.XHDTYPE)
    header.size = 3 << 30
    archive = tmp_path / "a.tar"
    archive.write_bytes(header.tobuf(tarfile.PAX_FORMAT) + bytes(10240))
    assert f"a header of {3 << 30} bytes" in str(refusal(archive))


def test_W02_a_directory_of_too_many_members_is_refused_unread(tmp_path):
    archive = zip_with(tmp_path / "a.zip", ("one", b"1"))
    packed = bytearray(archive.read_bytes())
    end = packed.rfind(b"PK\x05\x06")
    packed[end + 10 : end + 12] = b"\xff\xff"  # the count that says: see the 64-bit record
    archive.write_bytes(packed)
    assert refusal(archive).code == "E-ARCHIVE-SIZE"


def test_W02_an_archive_in_an_archive_stays_packed(tmp_path):
    inner = tar_with(tmp_path / "inner.tgz", (member("../outside"), b"1"))
    archive = tar_with(tmp_path / "a.tgz", (member("inner.tgz"), inner.read_bytes()))
    with unpacked(archive) as folder:
        assert [path.name for path in everything_below(folder)] == ["inner.tgz"]


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b\x08 not gzip"])
def test_what_is_no_archive_is_said_to_be_none(tmp_path, content):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(content)
    assert refusal(archive).code == "E-ARCHIVE-FORMAT"


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_cut_archive_is_refused(tmp_path, keep):
    noise = bytes(i * 7919 % 251 for i in range(200_000))
    packed = tar_with(tmp_path / "whole", (member("one"), noise)).read_bytes()
    archive = tmp_path / "a.tgz"
    archive.write_bytes(packed[: int(len(packed) * keep)])
    assert refusal(archive).code == "E-ARCHIVE-FORMAT"
