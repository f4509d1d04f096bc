"""Pages of TIFF stacks, as microscopes and scanners write them: ``x.tif#3`` is the third page."""

import re
from pathlib import Path

from PIL import Image

from atrous.errors import AtrousError, InputError

_SUBFILE = 254  # TIFF tag: what a page is
_NOT_A_PAGE = 1 | 4  # its bits for a reduced copy, as in a pyramid, and for a mask


def split_page(path: Path) -> tuple[Path, int | None]:
    """Returns the file and the page, from 1, that ``x.tif#3`` names; None without a page.

    >>> split_page(Path("a/x.tif#3"))[1], split_page(Path("a/x.tif"))[1]
    (3, None)
    """
    match = re.fullmatch(r"(.+\.tiff?)#(\d+)", path.name, re.IGNORECASE)
    if match is None or path.exists():  # a file that is really named so
        return path, None
    return path.with_name(match[1]), int(match[2])


def pages_named(path: Path) -> list[Path]:
    """Returns the pages of ``x.tif#2-4``, one by one; other names as they are.

    >>> [page.name for page in pages_named(Path("a/x.tif#2-4"))]
    ['x.tif#2', 'x.tif#3', 'x.tif#4']
    """
    match = re.fullmatch(r"(.+\.tiff?#)(\d+)-(\d+)", path.name, re.IGNORECASE)
    if match is None or path.exists():
        return [path]
    return [path.with_name(f"{match[1]}{n}") for n in range(int(match[2]), int(match[3]) + 1)]


def without_suffix(path: Path) -> Path:
    """Returns a path without its suffix; a page keeps its number.

    >>> without_suffix(Path("a/x.tif#3")).as_posix()
    'a/x.page3'
    """
    file, page = split_page(path)
    return file.with_suffix("" if page is None else f".page{page}")


def go_to_page(image: Image.Image, page: int | None, where: object) -> None:
    """Opens a page of a TIFF. Reduced copies and masks of a page do not count as pages.

    Args:
        image: The opened TIFF.
        page: The number of the page, from 1; None: the only one.
        where: The file, for errors.

    Raises:
        AtrousError: ``E-IMAGE-PAGES``: there are several pages and none is named, or none of this
            number.
    """
    if page is None and not image.tag_v2.next:  # type: ignore[attr-defined]
        return
    full = []
    for index in range(image.n_frames):  # type: ignore[attr-defined]
        image.seek(index)
        if not int(image.tag_v2.get(_SUBFILE, 0)) & _NOT_A_PAGE:  # type: ignore[attr-defined]
            full.append(index)
        if page is not None and len(full) == page:
            return
    if page is None and len(full) < 2:
        image.seek(full[0] if full else 0)
        return
    raise no_such_page(len(full), page, where)


def no_such_page(count: int, page: int | None, where: object) -> AtrousError:
    """Returns the error of a stack of so many pages, of which none or a wrong one is named."""
    hint = f"{Path(str(where)).name.partition('#')[0]}#1"
    return InputError(
        "E-IMAGE-PAGES",
        f"a stack of {count} pages"
        + (f" has no page {page}" if page is not None else ", not one picture"),
        where=where,
        fix=f"name one page, {hint}, or all, {hint}-{count}"
        " (from bytes and streams: save the file, or pass one page as a PIL picture)",
    )
