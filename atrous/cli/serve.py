"""``atrous serve``: models behind an address."""

import logging
from pathlib import Path
from typing import Any

import click

from atrous.cli.options import amount, precision_option
from atrous.errors import printable


@click.command()
@click.option(
    "--model", "models", multiple=True, metavar="MODEL",
    help="A model file or built-in name; several may be served, the first is the default.",
)  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option(
    "--workers", type=click.IntRange(1),
    help="Processes of each model [default: a quarter of the processors, at least 2].",
)  # fmt: skip
@click.option(
    "--threads", type=click.IntRange(1),
    help="Threads of each process [default: the processors divided among the processes].",
)  # fmt: skip
@click.option(
    "--token-file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Holds the token clients must send; needed off loopback.",
)  # fmt: skip
@click.option(
    "--insecure", is_flag=True, help="Listen off loopback without a token: anybody may use it."
)
@click.option(
    "--max-bytes", default="20MB", show_default=True, callback=amount, help="Of a request's body."
)
@click.option(
    "--max-pixels", default="33MP", show_default=True, callback=amount,
    help="Of a picture, refused from its header.",
)  # fmt: skip
@click.option(
    "--queue", type=click.IntRange(1),
    help="Requests that may wait [default: 64, or four for each worker].",
)  # fmt: skip
@click.option(
    "--deadline", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True,
    help="Seconds from a whole body to its answer.",
)  # fmt: skip
@click.option(
    "--memory", default="2GB", show_default=True, callback=amount,
    help="What a worker may take; larger pictures are seen in overlapping tiles.",
)  # fmt: skip
@precision_option
@click.option(
    "--allow-host", "allow_hosts", multiple=True, metavar="NAME",
    help="A name clients may call the server by; addresses and localhost always work.",
)  # fmt: skip
@click.option(
    "--downloadable", is_flag=True,
    help="Give the files of your models to anybody, so that browsers can run them; those of "
    "built-in models always are.",
)  # fmt: skip
def serve(token_file: Path | None, **limits: Any) -> None:
    r"""Serves models over HTTP, with a page for people.

    POST a picture's bytes to /v1/segment and get its labels; /openapi.json describes the rest.
    Only this machine reaches the server unless --host says otherwise, which needs a token.
    SIGTERM and Ctrl-C finish the requests that were read, then end the server with exit code 0.

    \b
    Examples:
      atrous serve
      atrous serve --model street --model my.onnx --workers 4 --threads 1
      atrous serve --host 0.0.0.0 --token-file token.txt --allow-host masks.example.org
      curl --data-binary @photo.jpg 'http://127.0.0.1:8000/v1/segment?format=overlay' -o masks.jpg
    """
    from atrous.serve import Server
    from atrous.serve.settings import Settings, read_token

    logging.basicConfig(format="%(message)s", level=logging.INFO)
    server = Server(Settings(token=read_token(token_file) if token_file else "", **limits))
    click.echo(
        f"starting {printable(', '.join(server.pools))}: {server.workers} workers of "
        f"{server.threads} threads each",
        err=True,
    )
    raise SystemExit(server.run())
