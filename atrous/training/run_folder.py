"""The folder of a training run: its config, its scores and its models."""

import csv
import io
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atrous import __version__
from atrous.classes import Color
from atrous.engines.machine import processor
from atrous.errors import AtrousError, ResourceError
from atrous.images.bands import Bands
from atrous.images.decode import atomic
from atrous.images.lock import locked
from atrous.training import config
from atrous.training.config import TrainConfig


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of a run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The best model so far."""
        return self.path / "best.safetensors"

    @property
    def heartbeats(self) -> Path:
        """Folder in which each of several processes notes its step."""
        return self.path / "heartbeats"

    def config(self) -> TrainConfig:
        """Reads the config of the run."""
        return config.read_config(self.path / "config.json")

    def write_config(self, asked: TrainConfig) -> None:
        """Writes config.json, which marks the folder as a run."""
        self.write("config.json", config.to_json(asked))

    def write(self, name: str, text: str) -> None:
        """Writes a text file, whole or not at all."""
        with atomic(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Appends an evaluation to metrics.csv, unless it is there: step, epoch, loss, scores."""
        rows = [old for old in self.metrics() if int(old["step"]) < int(row["step"])]
        self._write_metrics(list(row), [*rows, {name: str(row[name]) for name in row}])

    def metrics(self) -> list[dict[str, str]]:
        """Reads metrics.csv."""
        path = self.path / "metrics.csv"
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def forget_after(self, step: int) -> None:
        """Drops evaluations of steps a killed run did after its last checkpoint."""
        rows = self.metrics()
        if rows:
            kept = [row for row in rows if int(row["step"]) <= step]
            self._write_metrics(list(rows[0]), kept)

    def _write_metrics(self, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.write("metrics.csv", text.getvalue())

    def add_timing(self, step: int, seconds: float, pictures: int, memory: int) -> None:
        """Appends to timing.csv. Times depend on the machine and do not repeat."""
        path = self.path / "timing.csv"
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(("step", "seconds", "pictures_per_second", "peak_memory_mb"))
            writer.writerow((step, f"{seconds:.3f}", f"{pictures / seconds:.2f}", memory // 2**20))

    @contextmanager
    def logging_to(self, *, leads: bool) -> Iterator[None]:
        """Also writes this package's log to log.txt."""
        package = logging.getLogger("atrous")
        handler: logging.Handler = logging.NullHandler()
        if leads:
            handler = logging.FileHandler(self.path / "log.txt", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        level = package.level
        package.addHandler(handler)
        package.setLevel(min(level or logging.INFO, logging.INFO))
        try:
            yield
        finally:
            package.removeHandler(handler)
            package.setLevel(level)
            handler.close()


@contextmanager
def opened(path: Path, *, leads: bool, resume: bool) -> Iterator[RunFolder]:
    """Opens a run folder for one run at a time.

    Raises:
        AtrousError: It cannot be written, another run has it, or it holds a run and `resume` is
            off.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    if not leads:
        yield RunFolder(path)
        return
    if not resume and (path / "config.json").exists():
        raise AtrousError(
            "E-RUN-EXISTS",
            "the folder holds a run already",
            where=path,
            fix=f"go on with `atrous train --resume {path}`, or choose another --out",
        )
    try:
        lock = (path / "run.lock").open("w")
    except OSError as error:
        raise _unwritable(path, error) from error
    with lock:
        if not locked(lock):
            raise AtrousError(
                "E-RUN-LOCKED",
                "another run is writing to this folder",
                where=path,
                fix="wait for it, stop it, or choose another --out",
            )
        yield RunFolder(path)


def _unwritable(path: Path, error: OSError) -> AtrousError:
    return ResourceError(
        "E-RUN-WRITE",
        f"the run folder cannot be written: {error.strerror}",
        where=path,
        fix="choose another --out",
    )


def environment(device: torch.device, world_size: int) -> dict[str, Any]:
    """Returns versions, processor and command of the run."""
    packages = {}
    for name in ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "atrous": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "processes": world_size,
        "packages": packages,
        "command": sys.argv,
    }


def draw_curves(run: RunFolder, measures: Sequence[str]) -> None:
    """Draws curves.png from metrics.csv: loss and scores over steps; empty before an evaluation.

    Args:
        run: The run folder.
        measures: The two columns of metrics.csv that are scores.
    """
    rows = run.metrics()
    steps = [int(row["step"]) for row in rows]
    figure = _figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    left.plot(steps, [float(row["loss"]) for row in rows], "o-", color="#c03030")
    left.set_title("training loss, mean since the last evaluation")
    for name, color in zip(measures, ("#2060c0", "#30a030"), strict=True):
        values = [float(row[name]) for row in rows]
        label = f"{name} {values[-1]:.3f}" if values else name
        right.plot(steps, values, "o-", color=color, label=label)
    right.set_ylim(0, 1)
    right.legend(loc="lower right")
    right.set_title("validation" if rows else "validation: no evaluation yet")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    _save(figure, run.path / "curves.png")


def draw_confusion(run: RunFolder, counts: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Draws confusion.png: how each true class is predicted, rows summing to one."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(24.0, 2.5 + 0.55 * len(classes))
    figure = _figure(side + 1, side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.04, label="share of the true class")
    if len(classes) <= 200:  # more names than that cannot be read
        axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right")
        axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(classes) <= 30:
        for i, j in np.argwhere(shares >= 0.005):
            color = "white" if shares[i, j] > 0.5 else "black"
            text = f"{100 * shares[i, j]:.0f}"
            axes.text(j, i, text, ha="center", va="center", color=color, fontsize=8)
    _save(figure, run.path / "confusion.png")


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100)


# Words of the model card that depend on the task: the network, how it was evaluated, the score of
# a class, the name of these scores, and the command that uses the model.
_CARD_WORDS = {
    "segmentation": (
        "DeepLabv3+",
        "whole pictures at their own size, single scale",
        "IoU",
        "class_iou",
        "atrous predict PICTURES --model best.safetensors",
    ),
    "classification": (
        "Backbone and classifier of whole pictures",
        "middle 7/8 of each picture, at the size of the crops",
        "share of its pictures found",
        "class_accuracy",
        "atrous train RECIPE --weights best.safetensors",
    ),
}


def write_model_card(
    run: RunFolder,
    asked: TrainConfig,
    *,
    scores: Mapping[str, Any],
    palette: Sequence[Color],
) -> None:
    """Writes model_card.md: the network, its scores by class, and the run it comes from."""
    network, protocol, class_score, class_scores, command = _CARD_WORDS[asked.task]
    (best_by, first), (other, second) = asked.measures.items()
    lines = [
        f"# {asked.network.backbone} on {Path(asked.data).name}",
        "",
        f"{network} trained by atrous {__version__}, recipe `{asked.recipe or 'none'}`, "
        f"{asked.steps} steps of {asked.batch_size} crops of "
        f"{asked.crop_size[0]}x{asked.crop_size[1]}, output stride {asked.network.output_stride}.",
        "",
        f"- {first} on {asked.val_split}: {scores[best_by]:.4f} (best, step {scores['step']}; "
        f"{protocol})",
        f"- {second}: {scores[other]:.4f}",
        f"- started from: {asked.weights or 'random weights'}",
        *_channels(asked),
        "",
        f"| class | {class_score} | colour |",
        "|---|---|---|",
    ]
    for (name, value), color in zip(scores[class_scores].items(), palette, strict=True):
        shown = "n/a" if value is None else f"{value:.4f}"
        lines.append(f"| {name} | {shown} | #{bytes(color).hex()} |")
    lines += ["", f"Use: `{command}`", ""]
    run.write("model_card.md", "\n".join(lines))


def _channels(asked: TrainConfig) -> list[str]:
    """Returns the line about pixels that are not 8-bit RGB."""
    bands = Bands.of(vars(asked.network))
    if bands.is_rgb:
        return []
    return [
        f"- reads {len(bands.names)} channels of {bands.dtype}: {', '.join(bands.names)}; "
        "the normalisation is part of the model"
    ]
