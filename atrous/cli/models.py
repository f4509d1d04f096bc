"""``atrous models``: built-in models, costs of the networks, weights published by others."""

import json
from typing import Any

import click

from atrous.engines import built_in
from atrous.weights import zoo


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--size", type=(int, int), default=(513, 513), show_default=True, metavar="H W",
    help="Size of the picture that the costs are counted for.",
)  # fmt: skip
@click.option("--classes", type=click.IntRange(1), default=21, show_default=True)
def models(as_json: bool, size: tuple[int, int], classes: int) -> None:
    r"""Lists built-in models, costs of the networks, and weights published by others.

    Multiply-adds are those of one picture, and once more as the paper counts them, with the zeros
    that TensorFlow adds around atrous convolutions. Activations are the bytes that a training step
    keeps for one picture in float32.

    \b
    Examples:
      atrous models
      atrous models --size 1025 2049 --classes 19 --json
    """
    if not as_json:
        _show_built_in()
    rows = _cost_rows(size, classes)
    if as_json:
        tables = {"built_in": _built_in(), "networks": rows, "published": _published()}
        click.echo(json.dumps(tables, indent=1))
        return
    click.echo(
        f"Costs for a picture of {size[0]} x {size[1]} (height x width), {classes} classes\n"
    )
    header = ("backbone", "stride", "parameters", "multiply-adds", "paper's count", "activations")
    click.echo("{:<13} {:>6} {:>11} {:>14} {:>14} {:>12}".format(*header))
    for row in rows:
        click.echo(
            f"{row['backbone']:<13} {row['output_stride']:>6} {row['parameters'] / 1e6:>9.2f} M "
            f"{row['multiply_adds'] / 1e9:>12.2f} G {row['paper_multiply_adds'] / 1e9:>12.2f} G "
            f"{row['activation_bytes'] / 1e6:>9.0f} MB"
        )
    click.echo("\nAlso: timm/NAME for any timm backbone that supports dilation.\n")
    _show_published()


def _built_in() -> list[dict[str, Any]]:
    """Returns the built-in models as dicts for JSON."""
    rows = []
    for name in built_in.names():
        header = built_in.header(name)
        path = built_in.FOLDER / f"{name}.onnx"
        rows.append(
            {
                "name": name,
                "classes": header.classes,
                "backbone": header.backbone,
                "output_stride": header.output_stride,
                "precision": header.precision,
                "megabytes": round(path.stat().st_size / 1e6, 1),
                "source": header.source,
                "training": header.training,
                "terms": header.licence,
                "notes": header.notes,
                "sha256": header.sha256,
            }
        )
    return rows


def _show_built_in() -> None:
    """Prints the table of built-in models."""
    click.echo("Built-in models (atrous predict PICTURE --model NAME)")
    for row in _built_in():
        training = row["training"]
        default = ", the default" if row["name"] == built_in.DEFAULT else ""
        click.echo(
            f"\n{row['name']}{default}  ({row['backbone']}, output stride {row['output_stride']}, "
            f"{row['precision']}, {row['megabytes']} MB)"
        )
        click.echo(f"  classes: {', '.join(row['classes'])}")
        if training.get("mean_iou") is not None:
            click.echo(
                f"  {row['source']}: mean IoU {training['mean_iou']:.4f} on "
                f"{training['evaluated_on']}"
            )
        click.echo(f"  terms: {row['terms']}")
        for note in row["notes"]:
            click.echo(f"  {note}")
    click.echo("")


def _cost_rows(size: tuple[int, int], num_classes: int) -> list[dict[str, Any]]:
    import torch

    from atrous.build import BACKBONES, create_model
    from atrous.cost import measure, parameters

    rows = []
    for backbone in BACKBONES:
        for stride in (16, 8):
            with torch.device("meta"):
                model = create_model(backbone, num_classes=num_classes, output_stride=stride)
            cost = measure(model, size)
            rows.append(
                {
                    "backbone": backbone,
                    "output_stride": stride,
                    "parameters": parameters(model),
                    "multiply_adds": cost.multiply_adds,
                    "paper_multiply_adds": cost.paper_multiply_adds,
                    "activation_bytes": cost.activation_bytes,
                }
            )
    return rows


def _published() -> list[dict[str, Any]]:
    """Returns the table of published weights as dicts for JSON."""
    return [
        {
            "name": entry.name,
            "network": entry.network,
            "trained_on": entry.trained_on,
            "published": [str(score) for score in entry.scores],
            "measured": entry.measured,
            "licence": entry.licence,
            "megabytes": entry.megabytes,
            "digest": entry.digest,
            "url": entry.url,
        }
        for entry in zoo.ENTRIES
    ]


def _show_published() -> None:
    """Prints the table of published weights."""
    click.echo(
        "Published weights: name, network, size, the publisher's scores, this project's scores"
    )
    for entry in zoo.ENTRIES:
        fetched = entry.digest.split(":")[0] if entry.digest else "needs --sha256"
        click.echo(f"\n{entry.name}  ({entry.megabytes:g} MB, {entry.licence}, hash: {fetched})")
        click.echo(f"  {entry.network}; trained on {entry.trained_on}")
        scores = "; ".join(map(str, entry.scores)) or "no score of segmentation"
        click.echo(f"  published: {scores}; measured here: {entry.measured}")
    click.echo("\nThe training data have their own terms. Download: atrous convert NAME --out FILE")
