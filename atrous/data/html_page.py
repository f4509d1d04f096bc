"""Reports as one HTML file that needs no other file."""

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from atrous import __version__
from atrous.errors import needing
from atrous.images.decode import atomic
from atrous.predict.segmentation import encoded


def write_page(
    package: str, path: Path, filters: Mapping[str, Callable[[Any], str]], **values: Any
) -> None:
    """Writes the page of a package's template ``report.html.jinja``, whole or not at all.

    Args:
        package: Where the template is.
        path: The file.
        filters: Functions that the template calls by name.
        values: Values that the template shows; ``version`` is added.

    Raises:
        AtrousError: Jinja2 is not installed.
    """
    with needing("the HTML report", "data"):
        from jinja2 import Environment, PackageLoader, StrictUndefined
    # File and class names may contain markup: autoescape turns markup into text.
    environment = Environment(
        loader=PackageLoader(package, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= filters
    page = environment.get_template("report.html.jinja").render(version=__version__, **values)
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def jpeg(image: Image.Image, quality: int) -> str:
    """Returns a picture as the address of an image in a page that needs no other file."""
    content = encoded(image.convert("RGB"), "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
