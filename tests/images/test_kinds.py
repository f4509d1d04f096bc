"""Files that are no pictures for us are refused by the name of their kind."""

import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from atrous.errors import AtrousError
from atrous.images.decode import read_image
from atrous.images.kinds import HEAD, kind_of


def archive(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as file:
            file.writestr("a.txt", "a")
    else:
        with tarfile.open(fileobj=stream, mode="w") as file:
            file.addfile(tarfile.TarInfo("a.txt"))
    return stream.getvalue()


def saved(write) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


PICTURE = Image.new("RGB", (9, 7))
FILES = {  # word in the message: content, from other writers where there are some
    "PDF": saved(lambda stream: PICTURE.save(stream, "PDF")),
    "PostScript": saved(lambda stream: PICTURE.save(stream, "EPS")),
    "JPEG 2000": saved(lambda stream: PICTURE.save(stream, "JPEG2000")),
    "ZIP": archive("zip"),
    "tar": archive("tar"),
    "gzip": gzip.compress(b"a"),
    "NumPy": saved(lambda stream: np.save(stream, np.zeros(3))),
    "web page": b"\n <!DOCTYPE html><title>404</title>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "XML": b"<?xml version='1.0'?><annotation/>",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "raw": b"\0\0\0\x18ftypcrx \0\0\0\1",
    "video": b"\0\0\0\x18ftypisom\0\0\0\1",
    "DICOM": b"\0" * 128 + b"DICM" + b"\0" * 9,
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("stream", [False, True])
def test_the_message_names_the_kind(kind, stream, tmp_path):
    path = tmp_path / "a.jpg"  # content decides, not the name
    path.write_bytes(FILES[kind])
    with pytest.raises(AtrousError) as caught:
        read_image(io.BytesIO(FILES[kind]) if stream else path)
    assert caught.value.code == "E-IMAGE-FORMAT"
    assert kind.lower() in caught.value.what.lower()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_no_kind_is_claimed_for_pictures_that_are_read(format):
    assert kind_of(saved(lambda stream: PICTURE.save(stream, format))[:HEAD]) is None
