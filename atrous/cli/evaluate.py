"""``atrous evaluate``: scores of a model, with protocol, intervals and a report."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atrous.cli.options import ANY_PATH, FOLDER, Progress, view_options
from atrous.errors import printable
from atrous.images.decode import write

if TYPE_CHECKING:
    from atrous.data.dataset import Dataset
    from atrous.evaluation.evaluator import Outcome
    from atrous.evaluation.report.report import Evaluated
    from atrous.evaluation.scores import Scores

_TRIMAP_SHOWN = (1, 2, 3, 5, 10, 20, 40)


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--data", required=True, type=ANY_PATH, help="Labelled pictures.")
@click.option("--split", default="val", show_default=True, help="Name of the split.")
@view_options
@click.option(
    "--classes", metavar="NAME,NAME,...",
    help="Average over these classes only; predicting another class is still an error.",
)  # fmt: skip
@click.option(
    "--trimap", is_flag=False, flag_value="auto", default="auto", show_default=True,
    type=click.Choice(["auto", "void", "borders", "none"]),
    help="The trimap surrounds unlabelled pixels (void) or class borders; auto: by picture.",
)  # fmt: skip
@click.option("--compare", metavar="MODEL2", help="Evaluate a second model on the same pictures.")
@click.option(
    "--report", type=FOLDER, metavar="DIR",
    help="Write report.html and scores.json into this folder.",
)  # fmt: skip
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, metavar="N",
    help="Processes, which share the threads; scores are those of one.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone.")
def evaluate(
    model: str,
    data: Path,
    split: str,
    classes: str | None,
    trimap: str,
    compare: str | None,
    report: Path | None,
    jobs: int,
    as_json: bool,
    **views: Any,
) -> None:
    """Scores a model on labelled pictures, each compared at its own size.

    DATA is a data set's folder (VOC, Cityscapes, ADE20K, CamVid ...) or a dataset YAML. Classes
    in neither labels nor predictions are left out of the mean. Where the data has a class that
    the model lacks, every prediction is an error. No picture is skipped: a picture that cannot be
    read ends the evaluation.

    \b
    Examples:
      atrous evaluate model.onnx --data VOCdevkit/VOC2012
      atrous evaluate model.tflite --data VOCdevkit/VOC2012 --pad-to 513 --report out
      atrous evaluate a.safetensors --compare b.safetensors --data mine.yaml --report out
      atrous evaluate runs/scenes --data scenes
      atrous evaluate runs/x --data CITYSCAPES --scales 0.75,1,1.25 --flip --output-stride 8
    """  # noqa: D301  # click needs the backspace itself
    import torch  # noqa: F401  # a missing extra is said before anything about the data

    from atrous.data.opening import open_dataset

    opened = open_dataset(data, split)  # errors of the data set come before the model is loaded
    options = {
        **views,
        "classes": [name.strip() for name in classes.split(",")] if classes else None,
        "trimap": None if trimap == "none" else trimap,
        "jobs": jobs,
    }
    evaluated = [
        _run(name, _labelled(opened, data, split, name), options, gallery=report is not None)
        for name in (model, compare)
        if name is not None
    ]
    results = _results(evaluated, data, split)
    if report is not None:
        _write(evaluated, results, report)
    if as_json:
        click.echo(json.dumps(results))
        return
    for part in evaluated:
        _print(part.name, part.scores)
    if len(evaluated) == 2:
        _print_difference(*(part.scores for part in evaluated))
    if report is not None:
        click.echo(f"\nreport: {printable(report / 'report.html')}")


def _labelled(opened: "Dataset", data: Path, split: str, model: str) -> "Dataset":
    """Opens the data with the class numbering of the model, where there are several (ADE20K)."""
    from atrous.data.opening import CONVENTIONS, open_dataset, recognise

    conventions = CONVENTIONS.get(recognise(data).kind, ()) if data.exists() else ()
    if not conventions:
        return opened
    from atrous.engines.open import open_engine

    classes = len(open_engine(model).classes)
    return open_dataset(data, split, num_classes=classes if classes in conventions else None)


def _run(name: str, dataset: "Dataset", options: dict[str, Any], *, gallery: bool) -> "Evaluated":
    from atrous.evaluation.evaluator import evaluate as evaluate_model
    from atrous.evaluation.report.gallery import Gallery
    from atrous.evaluation.report.report import Evaluated

    pictures, progress = Gallery(), Progress(len(dataset), name)

    def watch(outcome: "Outcome") -> None:
        progress.count(outcome.position + 1)
        if gallery:
            pictures(outcome)

    scores = evaluate_model(name, dataset, on_picture=watch, **options)
    return Evaluated(name, scores, pictures)


def _results(evaluated: Sequence["Evaluated"], data: Path, split: str) -> dict[str, Any]:
    """Returns the scores as JSON values; a second model adds `compared` and `difference`."""
    results = [part.scores.as_dict() for part in evaluated]
    for result in results:
        result["protocol"] |= {"data": str(data), "split": split}
    if len(evaluated) == 1:
        return results[0]
    first, second = (part.scores for part in evaluated)
    over = list(second.common_mean_over(first))
    difference: dict[str, Any] = {**asdict(second.minus(first)), "mean_over": over}
    if first.boundaries is not None:
        difference["trimap_1"] = asdict(second.minus_at_borders(first))
    return {**results[0], "compared": results[1], "difference": difference}


def _write(evaluated: Sequence["Evaluated"], results: dict[str, Any], folder: Path) -> None:
    from atrous.evaluation.report.report import write_html

    write(folder / "scores.json", (json.dumps(results, indent=1) + "\n").encode())
    write_html(evaluated, folder / "report.html")


def _print(name: str, scores: "Scores") -> None:
    from atrous.evaluation.scores import HEADLINES

    protocol, result = scores.protocol, scores.as_dict()
    low, high = scores.mean_iou_interval
    click.echo(f"\n{printable(name)}")
    click.echo(f"  {'class':<24} {'IoU':>7}" + (f" {'boundary IoU':>13}" if scores.trimap else ""))
    for label, value in scores.class_iou.items():
        if value is not None:
            boundary = result.get("class_boundary_iou", {}).get(label)
            sharp = f" {_share(boundary):>13}" if scores.trimap else ""
            click.echo(f"  {printable(label):<24} {_share(value):>7}{sharp}")
    over = protocol["mean_over"]
    click.echo(
        f"  {'mean IoU':<24} {_share(scores.mean_iou):>7}  ({_share(low)} to {_share(high)})"
    )
    for label, key in HEADLINES:
        if key in result:
            click.echo(f"  {label:<24} {_share(result[key]):>7}")
    if scores.trimap:
        curve = "  ".join(f"{w} px {_share(scores.trimap[w])}" for w in _TRIMAP_SHOWN)
        click.echo(f"  within w of a border     {curve}")
    click.echo(
        f"  mean over: {over if isinstance(over, str) else ', '.join(over)}; "
        f"{protocol['absent_classes']}"
    )
    click.echo(f"  interval: {protocol['interval']}")
    if scores.lacking:
        click.echo(f"  the model lacks {', '.join(map(printable, scores.lacking))}:")
        click.echo(f"    {protocol['lacking_classes']}")
    padded = "x".join(map(str, protocol["pad_to"])) if protocol["pad_to"] else "no"
    click.echo(
        f"  protocol: {protocol['pictures']} pictures, scales {protocol['scales']}, flip "
        f"{'yes' if protocol['flip'] else 'no'}, padding {padded}, output stride "
        f"{protocol['output_stride'] or 'unknown'}, {protocol['engine']}, "
        f"{protocol['precision'] or 'precision unknown'}"
    )


def _print_difference(first: "Scores", second: "Scores") -> None:
    gain, over = second.minus(first), second.common_mean_over(first)
    which = "" if over == first.mean_over == second.mean_over else f" over {', '.join(over)}"
    click.echo(
        f"\nsecond minus first: {100 * gain.mean_iou:+.2f} points of mean IoU{which} "
        f"({100 * gain.low:+.2f} to {100 * gain.high:+.2f}); "
        f"better in {gain.better:.0%} of resampled sets"
    )
    if first.boundaries is not None:
        near = second.minus_at_borders(first)
        click.echo(
            f"within 1 px of borders: {100 * near.mean_iou:+.2f} points "
            f"({100 * near.low:+.2f} to {100 * near.high:+.2f})"
        )


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.2f}"
