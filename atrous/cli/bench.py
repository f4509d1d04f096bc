"""``atrous bench``: time and memory of a model on this machine."""

import json
from typing import Any

import click

from atrous.cli.options import precision_option, threads_option
from atrous.errors import printable


@click.command()
@click.argument("model")
@click.option(
    "--size", type=(click.IntRange(1), click.IntRange(1)), metavar="H W",
    help="Size of the picture [default: 513 513, or what the file is fixed to].",
)  # fmt: skip
@threads_option
@click.option(
    "--samples", type=click.IntRange(1), default=9, show_default=True,
    help="Timed runs of each engine.",
)  # fmt: skip
@precision_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(model: str, as_json: bool, **options: Any) -> None:
    r"""Measures a model in every engine that is installed.

    OpenVINO runs an exported file, and so does ONNX Runtime where it is installed. Any other model
    runs in PyTorch, and in both engines after an export. Times are from picture to coarse logits;
    the engines take turns. "of peak" compares with a large convolution, timed in the same turns.
    Start-up (until the first labels) and memory are measured in separate processes; the second
    start uses the compiled model that the first start cached. For fp32, a line compares two
    forms of the graph in OpenVINO, the second of which runs where it is faster.

    \b
    Examples:
      atrous bench model.onnx
      atrous bench model.onnx --size 1024 2048 --threads 1 --json
      atrous bench voc --precision bf16
    """
    from atrous.engines.bench import bench as measure

    report = measure(model, **options)
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        _show(report)


def _show(report: Any) -> None:
    height, width = report.size
    click.echo(
        f"{printable(report.model)}: {report.precision}, {height} x {width}, "
        f"{report.multiply_adds / 1e9:.2f} G multiply-adds, {report.threads} threads"
    )
    click.echo(f"{report.processor}: peak {report.peak / 1e9:.0f} G multiply-adds a second\n")
    row = "{:<13} {:>9} {:>9} {:>9} {:>9} {:>8} {:>9} {:>12} {:>9}"
    click.echo(
        row.format(
            *("engine", "precision", "median", "fastest", "spread", "of peak"),
            *("1st start", "start", "memory"),
        )
    )
    for cost in report.engines:
        click.echo(
            row.format(
                cost.engine,
                cost.precision,
                *(f"{v:.1f} ms" for v in (cost.median_ms, cost.fastest_ms, cost.spread_ms)),
                f"{100 * cost.share_of_peak:.0f} %",
                f"{cost.first_start_s:.2f} s",
                f"{cost.start_s:.2f} s",
                f"{cost.peak_memory_mb:.0f} MB",
            )
        )
    if report.rewrite_error:
        click.echo(f"\nOpenVINO runs the graph as exported; to rewrite it failed: "
                   f"{printable(report.rewrite_error)}")  # fmt: skip
    if choice := report.choice:
        click.echo(
            f"\nOpenVINO's graph in row strips {choice.strips_ms:.1f} ms, as exported "
            f"{choice.as_exported_ms:.1f} ms, logits {'equal' if choice.equal else 'not equal'}: "
            f"{'strips' if choice.strips else 'as exported'}"
        )
    click.echo(
        f"\nlabels from coarse logits: {report.labels_ms:.2f} ms, "
        f"{100 * report.undecided_cells:.1f} % of the cells undecided"
    )
