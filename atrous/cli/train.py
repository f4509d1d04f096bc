"""``atrous train``: a recipe, some changes to it, a run folder."""

import sys
import time
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from atrous.errors import AtrousError, unknown_name
from atrous.training.config import TrainConfig, read_config, with_changes
from atrous.training.recipes import RECIPES

_LINE_EVERY = 10.0  # seconds between lines where there is no terminal


class _Value(click.ParamType[Any]):
    """A field of the config: numbers as 513,513; none for no value."""

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


def _parse(text: str, hint: Any) -> Any:
    args = get_args(hint)
    if get_origin(hint) is UnionType:
        if text.lower() == "none" and NoneType in args:
            return _NONE
        return _parse(text, args[0])
    if get_origin(hint) is tuple:
        words = [word for word in text.replace("x", ",").split(",") if word.strip()]
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
        return ",".join(_type_name(kind) for kind in args).replace("Ellipsis", "...")
    return {int: "INT", float: "NUMBER", str: "TEXT"}.get(hint, "...")


def _config_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds an option for every field of the config: what exists there exists here."""
    hints = get_type_hints(TrainConfig)
    texts = _field_texts()
    for field in reversed(fields(TrainConfig)):
        if field.name == "recipe":
            continue
        assert field.default is not MISSING
        name, hint = field.name.replace("_", "-"), hints[field.name]
        options: dict[str, Any] = {"default": None, "help": texts[field.name]}
        if hint is bool:
            command = click.option(f"--{name}/--no-{name}", field.name, **options)(command)
            continue
        literal = get_origin(hint) is Literal
        options["type"] = click.Choice(get_args(hint)) if literal else _Value(hint)
        command = click.option(f"--{name}", field.name, **options)(command)
    return command


def _field_texts() -> dict[str, str]:
    """Reads the description of each field from the config's docstring."""
    texts: dict[str, str] = {}
    name = ""
    for line in (TrainConfig.__doc__ or "").partition("Args:")[2].splitlines():
        head, colon, rest = line.strip().partition(": ")
        if line.startswith(" " * 8) and not line.startswith(" " * 9) and colon:
            name = head
            texts[name] = rest
        elif name and line.strip():
            texts[name] += f" {line.strip()}"
    return {name: text.replace("`", "") for name, text in texts.items()}


@click.command()
@click.argument("recipe", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="The run folder.")
@click.option(
    "--resume",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="RUN",
    help="Go on with the run in this folder.",
)
@click.option("--override", is_flag=True, help="Resume with a config that differs.")
@click.option("--extend", is_flag=True, help="Resume a finished run with more --steps.")
@click.option("--dry-run", is_flag=True, help="Say what the run would take, and stop.")
@click.option(
    "--batch",
    metavar="N|auto",
    help="Pictures per update; auto: the recipe's, in as many parts as memory needs.",
)
@_config_options
def train(
    recipe: str | None,
    out: Path | None,
    resume: Path | None,
    override: bool,
    extend: bool,
    dry_run: bool,
    batch: str | None,
    **values: Any,
) -> None:
    """Trains a network, exactly and safely: a run that is killed goes on bit for bit.

    RECIPE names a recipe; every number of it can be changed by an option. See docs/train.md.

    \b
    Examples:
      atrous train scenes --out runs/scenes
      atrous train voc_animals --data VOC2012 --out runs/animals --batch auto
      atrous train voc_xception65 --data VOC2012 --dry-run
      atrous train --resume runs/animals
      torchrun --nproc-per-node 8 -m atrous.cli train cityscapes_xception65 \\
          --data cityscapes --out runs/cityscapes
    """  # noqa: D301  # click wants the control character itself
    changes = {k: None if v is _NONE else v for k, v in values.items() if v is not None}
    if batch not in (None, "auto"):
        if not str(batch).isdigit():
            raise click.BadParameter(
                f"{batch!r} is neither a number nor auto", param_hint="--batch"
            )
        changes["batch_size"] = int(str(batch))
    config = _chosen(recipe, resume, changes)
    from atrous.training.planning import plan

    if batch == "auto" or dry_run:
        planned = plan(config, divide=batch == "auto")
        config = planned.config
        click.echo(str(planned))
        if dry_run:
            return
    folder = resume or out
    if folder is None:
        raise click.UsageError("name a folder with --out")
    from atrous.training.loop import train as run

    result = run(
        config, folder, resume=resume is not None, override=override, extend=extend,
        on_progress=_progress_printer(), own_process=True,
    )  # fmt: skip
    if result.best:
        measure, name = next(iter(config.measures.items()))
        click.echo(
            f"\nbest {name} {result.best[measure]:.4f} at step {result.best['step']}; "
            f"see {folder}/model_card.md"
        )


def _chosen(recipe: str | None, resume: Path | None, changes: dict[str, Any]) -> TrainConfig:
    if resume is not None:
        if recipe is not None:
            raise click.UsageError("--resume takes the recipe from the run folder")
        return with_changes(read_config(resume / "config.json"), changes)
    if recipe is None:
        raise click.UsageError(f"name a recipe: {', '.join(RECIPES)}")
    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    config = with_changes(RECIPES[recipe](), changes)
    if config.data != "scenes" and not Path(config.data).exists():
        raise AtrousError("E-DATA-MISSING", "no such data", where=config.data, fix="--data FOLDER")
    return config


def _progress_printer() -> Callable[[object], None]:
    """Rewrites one line on a terminal; elsewhere prints a line now and then."""
    live = sys.stderr.isatty()
    last = time.monotonic()

    def show(progress: object) -> None:
        nonlocal last
        if live:
            click.echo(f"\r\x1b[K{progress}", nl=False, err=True)
        elif time.monotonic() - last >= _LINE_EVERY:
            last = time.monotonic()
            click.echo(str(progress), err=True)

    return show
