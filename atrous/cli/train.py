"""``atrous train``: a recipe, some changes to it, a run folder."""

import re
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from atrous.architecture import Architecture
from atrous.cli.options import Line
from atrous.errors import AtrousError, unknown_name
from atrous.training.config import TrainConfig, read_config
from atrous.training.recipes import RECIPES

# The options of the help in their groups: first the options people use first.
_GROUPS = {
    "Used first": (
        "data", "out", "steps", "epochs", "minutes", "batch_size", "crop_size", "base_lr",
        "weights", "evaluate_every", "device", "dry_run", "resume",
    ),
    "Data": (
        "names", "train_split", "val_split", "scale_range", "flip", "photometric", "class_weights",
        "class_balance", "task",
    ),
    "Network": (
        "backbone", "output_stride", "head", "atrous_rates", "multi_grid", "image_pooling",
        "separable", "decoder_separable", "decoder", "decoder_strides", "reduced_channels",
        "refine", "depth_multiplier", "stem", "relu_after_depthwise", "graft", "freeze_backbone",
        "dropped_to_background", "first_fit", "batch_norm", "batch_norm_momentum",
    ),
    "Schedule": (
        "optimizer", "schedule", "decay_steps", "weight_decay", "head_multiplier",
        "bias_multiplier", "losses", "average_decay", "clip_norm", "seed",
    ),
    "Machine": (
        "batch", "accumulation", "precision", "gradient_checkpointing", "deterministic", "workers",
        "cache_megabytes", "save_every", "samples", "tensorboard", "timeout", "override", "extend",
    ),
}  # fmt: skip

# Spellings of other tools, and the option they mean here.
_HINTS = {
    "--crop-size": "imgsz img img-size image-size input-size resolution size crop",
    "--base-lr": "lr lr0 learning-rate initial-lr learning-rate-init",
    "--batch-size": "bs b batchsize train-batch-size batch-per-gpu per-device-batch-size",
    "--workers": "num-workers j nw loader-workers dataloader-num-workers",
    "--weights": "model m pretrained checkpoint ckpt init-from load-from pretrained-weights",
    "--backbone": "arch architecture encoder encoder-name network net",
    "--epochs": "epoch num-epochs max-epochs e",
    "--steps": "iters iterations max-iters max-steps num-steps training-number-of-steps",
    "--minutes": "time hours max-time",
    "--out": "output output-dir work-dir save-dir logdir train-logdir project name o",
    "--data": "dataset data-dir dataset-dir data-path data-root root",
    "--weight-decay": "wd l2",
    "--optimizer": "optim opt",
    "--schedule": "lr-scheduler scheduler lr-schedule sched cos-lr",
    "--losses": "loss criterion",
    "--precision": "amp fp16 bf16 half mixed-precision",
    "--device": "gpu gpus gpu-id cuda accelerator",
    "--evaluate-every": "val-interval eval-interval eval-every val-every check-val-every-n-epoch",
    "--save-every": "save-interval save-period checkpoint-interval",
    "--average-decay": "ema ema-decay model-ema",
    "--accumulation": "accumulate grad-accum gradient-accumulation-steps accumulate-grad-batches",
    "--batch-norm frozen": "freeze-bn freeze-batch-norm fine-tune-batch-norm sync-bn",
    "--freeze-backbone": "freeze freeze-encoder",
    "--clip-norm": "clip-grad grad-clip gradient-clip max-grad-norm",
    "--seed": "random-seed manual-seed",
    "--dry-run": "dryrun check",
}
_HINT_OF = {
    f"{'-' if len(word) == 1 else '--'}{word}": option
    for option, words in _HINTS.items()
    for word in words.split()
}
_NO_OPTION = {
    "--num-classes": "the classes come from the data (atrous data check DATA lists them)",
    "--nc": "the classes come from the data (atrous data check DATA lists them)",
    "--patience": "the best model is kept, so a run need not stop early",
    "--momentum": "momentum is 0.9, as in the paper",
    "--power": "the power of the poly schedule is 0.9, as in the paper",
    "--keep": "the two newest checkpoints and the best model are kept",
    "--decoder-kernels": "use --refine KERNELxFILTERS,..., such as 3x256,3x256",
    "--decoder-channels": "use --refine KERNELxFILTERS,..., such as 3x256,3x256",
    "--nesterov": "use --optimizer nesterov",
}


class _Value(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """A field of the config: 513,513 for a pair, 3x256,3x256 for pairs of pairs, or none."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint
        self.name = _type_name(hint)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return _parse(value, self.hint)
        except ValueError:
            self.fail(f"{value!r} is not {self.name}", param, ctx)


def _batch(context: click.Context, option: click.Parameter, text: str | None) -> int | str | None:
    if text in (None, "auto"):
        return text
    if not text.isdigit():
        raise click.BadParameter(f"{text!r} is neither a number nor auto")
    return int(text)


def _parse(text: str, hint: Any) -> Any:
    args = get_args(hint)
    if get_origin(hint) is UnionType:
        if text.lower() == "none" and NoneType in args:
            return _NONE
        return _parse(text, args[0])
    if get_origin(hint) is tuple:
        pairs = get_origin(args[0]) is tuple  # pairs inside have an x, so only commas separate
        words = [word for word in re.split("," if pairs else "[,x]", text) if word.strip()]
        if args == (str, ...):
            words = [word.strip() for word in text.split(",")]
        kinds = args[:1] * len(words) if args[-1] is Ellipsis else args
        if len(words) != len(kinds):
            raise ValueError(text)
        return tuple(_parse(word, kind) for word, kind in zip(words, kinds, strict=True))
    return hint(text)


_NONE = object()  # click takes None for "not given"


def _type_name(hint: Any) -> str:
    args = get_args(hint)
    if get_origin(hint) is UnionType:
        return f"{_type_name(args[0])}|none"
    if get_origin(hint) is tuple:
        kinds = ["INTxINT" if kind == tuple[int, int] else _type_name(kind) for kind in args]
        return ",".join(kinds).replace("Ellipsis", "...")
    return {int: "INT", float: "NUMBER", str: "TEXT"}.get(hint, "...")


def _config_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds an option for every field of the config and of its network that the help lists."""
    listed = {name for group in _GROUPS.values() for name in group}
    for record in (TrainConfig, Architecture):
        hints, texts = get_type_hints(record), _field_texts(record)
        for field in fields(record):
            if field.name not in listed or field.name == "network":
                continue
            name, hint = field.name.replace("_", "-"), hints[field.name]
            options: dict[str, Any] = {"default": None, "help": texts.get(field.name, "")}
            if hint is bool or hint == bool | None:
                command = click.option(f"--{name}/--no-{name}", field.name, **options)(command)
                continue
            literal = get_origin(hint) is Literal
            choices = [value for value in get_args(hint) if value != "global_pooling"]
            options["type"] = click.Choice(choices) if literal else _Value(hint)
            command = click.option(f"--{name}", field.name, **options)(command)
    return command


def _field_texts(record: type) -> dict[str, str]:
    """Reads the first sentence about each field from a docstring; python -OO removes them all."""
    texts: dict[str, str] = {}
    name = ""
    for line in (record.__doc__ or "").partition("Args:")[2].splitlines():
        head, colon, rest = line.strip().partition(": ")
        if line.startswith(" " * 8) and not line.startswith(" " * 9) and colon:
            name = head
            texts[name] = rest
        elif name and line.strip():
            texts[name] += f" {line.strip()}"
    return {
        name: re.split(r"[.;](?: |$)", text.replace("`", ""), maxsplit=1)[0]
        for name, text in texts.items()
    }


class _Train(click.Command):
    """Shows the options in groups, and knows the spellings of other tools."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes each group of `_GROUPS` under its title."""
        formatter.width = max(formatter.width, 100)
        rows = {option.name: option.get_help_record(ctx) for option in self.params}
        for title, names in _GROUPS.items():
            with formatter.section(title):
                shown = [row for name in names if (row := rows[name])]
                formatter.write_dl(
                    [(re.sub(r"^--([\w-]+) / --no-.*", r"--[no-]\1", a), b) for a, b in shown],
                    col_max=36,
                )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the options; an unknown one is refused with the option that is meant."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name
            hint = _NO_OPTION.get(name) or (name in _HINT_OF and f"use {_HINT_OF[name]}")
            if hint:
                raise click.UsageError(f"No such option {name!r}: {hint}", ctx) from None
            raise


@click.command(cls=_Train, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("recipe", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="The run folder.")
@click.option("--epochs", type=float, metavar="NUMBER", help="Length, instead of --steps.")
@click.option("--minutes", type=float, metavar="NUMBER", help="Length, instead of --steps.")
@click.option(
    "--resume",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="RUN",
    help="Go on with the run in this folder.",
)
@click.option("--override", is_flag=True, help="Resume with a config that differs.")
@click.option("--extend", is_flag=True, help="Resume a finished run with more --steps.")
@click.option("--dry-run", is_flag=True, help="Print memory and time of the run, and stop.")
@click.option(
    "--batch", callback=_batch, metavar="N|auto", help="auto: as many parts as memory needs."
)
@_config_options
def train(
    recipe: str | None,
    out: Path | None,
    epochs: float | None,
    minutes: float | None,
    resume: Path | None,
    override: bool,
    extend: bool,
    dry_run: bool,
    batch: int | str | None,
    **values: Any,
) -> None:
    """Trains a network; a run that is killed resumes bit for bit.

    RECIPE is finetune, for your own data, or another recipe of docs/train.md. An option changes a
    number of the recipe.

    \b
    Examples:
      atrous train finetune --data my_data --out runs/mine --minutes 10
      atrous train scenes --out runs/scenes
      atrous train voc_xception65 --data VOC2012 --dry-run
      atrous train --resume runs/mine
      torchrun --nproc-per-node 8 -m atrous.cli train cityscapes_xception65 \\
          --data cityscapes --out runs/cityscapes
    """  # noqa: D301  # click wants the control character itself
    changes = {k: None if v is _NONE else v for k, v in values.items() if v is not None}
    if batch not in (None, "auto"):
        changes["batch_size"] = batch
    folder = resume or out
    if recipe is not None and folder is None and not dry_run:
        raise click.UsageError("name a folder with --out")
    started = time.perf_counter()
    config = _chosen(recipe, changes, resume=resume, epochs=epochs, minutes=minutes)
    if batch == "auto" or (dry_run and recipe != "finetune"):
        from atrous.training.planning import plan

        planned = plan(config, divide=batch == "auto")
        config = planned.config
        click.echo(str(planned))
    if dry_run:
        return
    from atrous.training.loop import train as run

    assert folder is not None
    line = _TrainingLine(every=10.0)
    left = minutes and max(0.1, minutes - (time.perf_counter() - started) / 60)
    result = run(
        config, folder, resume=resume is not None, override=override, extend=extend, minutes=left,
        on_progress=line, own_process=True,
    )  # fmt: skip
    if line.live:
        click.echo(err=True)
    if result.best:
        measure, name = next(iter(config.measures.items()))
        click.echo(
            f"best {name} {result.best[measure]:.4f} at step {result.best['step']}; "
            f"see {folder}/model_card.md"
        )


def _chosen(
    recipe: str | None,
    changes: dict[str, Any],
    *,
    resume: Path | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
) -> TrainConfig:
    """Returns the config of a run folder or a recipe, with changes."""
    lengths = [length for length in (epochs, minutes, changes.get("steps")) if length is not None]
    if len(lengths) > 1:
        raise click.UsageError("give one of --steps, --epochs and --minutes")
    if resume is not None:
        if recipe is not None or epochs is not None or minutes is not None:
            raise click.UsageError("--resume takes recipe and length from the run folder")
        return read_config(resume / "config.json").changed(**changes)
    names = ("finetune", *RECIPES)
    if recipe is None:
        raise click.UsageError(f"name a recipe: {', '.join(names)}")
    if recipe not in names:
        raise unknown_name("recipe", recipe, names)
    return _of_recipe(recipe, changes, epochs, minutes)


def _of_recipe(
    recipe: str, changes: dict[str, Any], epochs: float | None, minutes: float | None
) -> TrainConfig:
    """Returns the config of a recipe, its length from epochs or minutes."""
    if recipe == "finetune":
        from atrous.training.finetune import choose

        if "data" not in changes:
            raise click.UsageError("finetune needs your data: --data DATA")
        planned = choose(changes.pop("data"), epochs=epochs, minutes=minutes, **changes)
        click.echo(str(planned))
        return planned.config
    config = RECIPES[recipe]().changed(**changes)
    if config.data != "scenes" and not Path(config.data).exists():
        raise AtrousError("E-DATA-MISSING", "no such data", where=config.data, fix="--data FOLDER")
    if epochs is not None or minutes is not None:
        from atrous.training.planning import with_budget

        config = with_budget(config, epochs=epochs, minutes=minutes)
    return config


class _TrainingLine(Line):
    """Shows the place of a run, on a terminal with a bar."""

    def __call__(self, progress: Any) -> None:
        """Shows a place."""
        done = 20 * progress.step // progress.steps
        bar = f"[{'#' * done}{'.' * (20 - done)}] " if self.live else ""
        self.show(f"{bar}{progress}")
