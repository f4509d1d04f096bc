"""Names files that are not read as pictures, by their first bytes."""

_RAW = "a camera's raw"
_SAVE = "save it as PNG, JPEG or TIFF"
_UNPACK = "unpack it first"
_VIDEO = "name the video's file, with its usual suffix, to atrous predict"
_KINDS: tuple[tuple[int, bytes, str, str], ...] = (  # place, bytes, kind, fix
    (4, b"jP  ", "JPEG 2000", _SAVE),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000", _SAVE),
    (0, b"%PDF", "a PDF document", "export its pages: pdftoppm -png IN.pdf page"),
    (0, b"%!PS", "a PostScript document", _SAVE),
    (0, b"8BPS", "a Photoshop file", _SAVE),
    (0, b"gimp xcf", "a GIMP file", _SAVE),
    (0, b"v/1\x01", "OpenEXR", _SAVE),
    (0, b"#?R", "a Radiance picture", _SAVE),
    (0, b"FUJIFILM", _RAW, "develop it to JPEG or TIFF"),
    (4, b"ftypcrx", _RAW, "develop it to JPEG or TIFF"),
    (8, b"CR\x02", _RAW, "develop it to JPEG or TIFF"),
    (128, b"DICM", "DICOM", "export its frames as PNG: dcm2img IN.dcm OUT.png"),
    (0, b"SIMPLE  =", "FITS", "save it as a 32-bit TIFF"),
    (0, b"\x89HDF", "HDF5", "save its arrays as TIFF, or pass them to a Predictor"),
    (0, b"\x93NUMPY", "a NumPy array", "load it and pass it to a Predictor"),
    (0, b"PK\x03\x04", "a ZIP archive", _UNPACK),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (4, b"ftypavi", "AVIF, which this Pillow was built without", _SAVE),
    (4, b"ftyp", "a video", _VIDEO),
    (4, b"moov", "a video", _VIDEO),
    (0, b"\x1a\x45\xdf\xa3", "a video", _VIDEO),
    (8, b"AVI ", "a video", _VIDEO),
    (0, b"\x30\x26\xb2\x75", "a video", _VIDEO),
    (0, b"FLV\x01", "a video", _VIDEO),
    (0, b"OggS", "a video or sound", _VIDEO),
    (0, b"\x00\x00\x01\xba", "a video", _VIDEO),
)
_TEXTS = (
    (b"<!doctype html", "a web page", "name the address of the picture itself"),
    (b"<html", "a web page", "name the address of the picture itself"),
    (b"<svg", "an SVG drawing", _SAVE),
    (b"<?xml", "an XML document", ""),
    (b"version https://git-lfs", "a pointer of Git LFS", "git lfs pull"),
)
HEAD = 264  # bytes that `kind_of` wants


def kind_of(head: bytes) -> tuple[str, str] | None:
    """Returns what a file is that begins with these bytes, and how to go on; None: unknown."""
    for place, magic, kind, fix in _KINDS:
        if head[place : place + len(magic)] == magic:
            return kind, fix
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next(((kind, fix) for start, kind, fix in _TEXTS if text.startswith(start)), None)
