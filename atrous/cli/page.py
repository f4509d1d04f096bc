"""``atrous page``: the web page as a folder of static files."""

import json
from pathlib import Path

import click

from atrous.cli.options import FOLDER
from atrous.engines import built_in
from atrous.errors import printable


@click.command()
@click.option("--out", type=FOLDER, required=True, help="Folder of the page, made if need be.")
@click.option(
    "--model", "models", multiple=True, default=(built_in.DEFAULT,), show_default=True,
    metavar="MODEL",
    help="A built-in name or an exported file; may be repeated, the first is shown first.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def page(out: Path, models: tuple[str, ...], as_json: bool) -> None:
    r"""Writes a web page that segments pictures in the visitor's browser.

    The folder works from any web server or a host of static pages, without Python; opening
    index.html as a file does not work, since browsers load no modules from files. Pictures never
    leave the visitor's device. The model files are part of the folder: mind their terms before
    you publish it.

    \b
    Examples:
      atrous page --out site/
      atrous page --out site/ --model street --model my_model.onnx
      python -m http.server --directory site
    """
    from atrous.serve.site import write_site

    written = write_site(out, models)
    if as_json:
        click.echo(json.dumps(written))
        return
    click.echo(
        f"{printable(written['out'])}: {written['files']} files, {written['bytes'] / 1e6:.1f} MB, "
        f"models {', '.join(written['models'])}"
    )
    click.echo(f"look at it: python -m http.server --directory {printable(out)}")
