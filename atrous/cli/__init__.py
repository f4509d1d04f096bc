"""The command line: ``atrous COMMAND``. Each command has a file, which is loaded on use."""

import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module

import click

from atrous import __version__
from atrous.errors import AtrousError, ExitCode, missing_extra

COMMANDS = (
    "predict",
    "models",
    "convert",
    "export",
    "data",
    "train",
    "evaluate",
    "submit",
    "bench",
    "page",
    "serve",
)


class Group(click.Group):
    """Loads a command when it is used, and suggests the nearest name for a misspelt one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names of the commands, in the order of a model's life."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Loads the command NAME from ``atrous.cli.NAME``."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"atrous.cli.{cmd_name}"), cmd_name)
        # click keeps the line breaks of a paragraph after the control character \\b. In a raw
        # docstring that is a backslash and the letter b.
        for each in (command, *getattr(command, "commands", {}).values()):
            each.help = each.help and each.help.replace("\\b\n", "\b\n")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command, or fails with the nearest name."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = get_close_matches(args[0], self.list_commands(ctx), n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="atrous")
def atrous() -> None:
    """DeepLabv3+: from a photograph to a mask, from labelled pictures to a model.

    Every command shows examples with --help. Add --debug to see where an error comes from.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with one of `ExitCode`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 must not end a call
        reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")
    try:
        words = [word for word in words if word != "--debug"]
        atrous.main(words, "atrous", standalone_mode=False, obj=debug)
    except Exception as error:
        if debug:
            raise
        sys.exit(_report(error))


def _report(error: Exception) -> int:
    """Prints an error on standard error and returns the exit code."""
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, click.Abort):
        return 130
    if isinstance(error, BrokenPipeError):  # the reader of the output closed it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  # Python flushes it at exit
        return 141
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] != "atrous":
        error = missing_extra("this command", error)
    if isinstance(error, AtrousError):
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    if isinstance(error, MemoryError):
        click.echo("error: out of memory", err=True)
        return ExitCode.RESOURCES
    click.echo(
        f"error: {type(error).__name__}: {error}\n"
        "  this is a bug in atrous; run again with --debug and report what it prints",
        err=True,
    )
    return ExitCode.BUG
