"""The `fewstep` command: gathers the commands of the folders and ends every failure with one sentence and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage (a ValueError: what was given, what was expected, the fix), 130 ended by Ctrl-C.
"""

import errno
import os
import shlex
import sys
from importlib import import_module
from typing import Any

import click

from fewstep.arguments import ARGUMENTS
from fewstep.lazy import explained
from fewstep.version import __version__

# Command -> module that defines it, imported on first use. Such a module imports torch only inside its functions.
COMMANDS = {
    "sample": "fewstep.samplers.commands.sample_options",
    "compare": "fewstep.eval.compare.command",
    "learn": "fewstep.samplers.learned.commands",
    "show": "fewstep.samplers.learned.commands",
    "tune": "fewstep.adjoint.commands.tune_options",
    "fid": "fewstep.eval.cli",
    "eval": "fewstep.eval.cli",
    "stats": "fewstep.eval.cli",
    "metrics": "fewstep.eval.cli",
    "solvers": "fewstep.samplers.commands.catalogue",
    "grids": "fewstep.samplers.commands.catalogue",
    "guidance": "fewstep.samplers.commands.catalogue",
}


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["fewstep.debug"] = True


DEBUG = click.Option(
    ["--debug"], is_flag=True, expose_value=False, callback=_remember_debug, help="Show the traceback of a failure."
)


class Failure(click.ClickException):
    """A failure told in one sentence: the first line of its message."""

    def __init__(self, error: Exception) -> None:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = " ".join(lines if isinstance(error, ValueError) else lines[:1])
        if isinstance(error, OSError) and error.strerror:  # which begins with a number
            told = f"{error.filename or 'an output'}: {error.strerror}"
        super().__init__(told or f"{type(error).__name__} without a message; --debug shows where")


class WrongUsage(Failure):
    """The same for a ValueError, whose whole message is meant for the user."""

    exit_code = 2


INTERRUPTED = 130  # exit code, as shells have it


def goes_on(ctx: click.Context) -> str:
    """Which command goes on after Ctrl-C: the same, from the folder that it kept its work in, or from the beginning."""
    arguments = [str(a) for a in ctx.find_root().meta.get(ARGUMENTS, ())]
    same = shlex.join(["fewstep", *arguments])
    if any(a == "--resume" or a.startswith("--resume=") for a in arguments):
        return f"what was done is kept, and the same command goes on: {same}"
    command = (
        ctx.command.get_command(ctx, arguments[0]) if isinstance(ctx.command, Commands) and arguments else ctx.command
    )
    if command is not None and any("--resume" in option.opts for option in command.params):
        return f"the same command begins again, and with --resume DIR it can be ended and goes on: {same} --resume DIR"
    return f"the same command begins again: {same}"


class Commands(click.Group):
    """A group whose commands are imported when they are asked for, each of them with `--debug`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(COMMANDS[cmd_name])
        command: click.Command = getattr(module, f"{cmd_name}_command", None) or getattr(module, cmd_name)
        if DEBUG not in command.params:
            command.params.append(DEBUG)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        _open_streams()
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            click.echo(f"interrupted; {goes_on(ctx)}", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader of a pipe has seen enough: click ends quietly
            if ctx.meta.get("fewstep.debug"):
                import traceback

                traceback.print_exc()
            told = explained(error, ctx.command_path) if isinstance(error, ModuleNotFoundError) else error
            raise (WrongUsage if isinstance(told, ValueError) else Failure)(told) from error


def _open_streams() -> None:
    """A stream that the caller has closed leads nowhere; otherwise the next file that is opened would take its place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


@click.command(cls=Commands, params=[DEBUG], context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="fewstep %(version)s")
def main() -> None:
    """Good samples from a pretrained diffusion model in few network evaluations.

    MODEL is a folder or hub id of a diffusers pipeline, or `demo`, the embedded one.
    """
