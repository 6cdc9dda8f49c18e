"""What the commands of all folders share: kinds of arguments, the options that say what is sampled, progress."""

import ast
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

T = TypeVar("T")
ARGUMENTS = "fewstep.arguments"  # in click's context: the command line
PROMPTS = "fewstep.prompts"  # in a command's context: what --prompts said


class Listed(click.ParamType):
    """Values between commas: "4,5,6"."""

    def __init__(self, item: Callable[[str], Any], name: str) -> None:
        self.item, self.name = item, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if not isinstance(value, str):
            return tuple(value)
        try:
            items = tuple(self.item(part.strip()) for part in value.split(",") if part.strip())
        except ValueError:
            items = ()
        return items or self.fail(f"{value!r} is not a list of {self.name} between commas.", param, ctx)


NUMBERS = Listed(int, "whole numbers")
SCALES = Listed(float, "numbers")
NAMES = Listed(str, "names")


def parsed(text: str) -> tuple[str, Any]:
    """key=value with the value read as number, true/false/none or list where it looks like one, else as text."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise click.BadParameter(f"{text!r} is not key=value", param_hint="--option")
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return key, words[value.lower()]
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def watched(items: Sequence[T], label: str, told: Callable[[T], str] = str) -> Iterator[T]:
    """The items with a progress bar on a terminal, with one plain line each (on stderr) elsewhere."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=label, leave=False)
        return
    for k, item in enumerate(items, 1):
        click.echo(f"{label} {k} of {len(items)}: {told(item)}", err=True)
        yield item


def decorated(command: Callable[..., None], shared: Sequence[Callable[..., Any]]) -> Callable[..., None]:
    """The command with these options, which keep their order in its help."""
    for decorate in reversed(shared):
        command = decorate(command)
    return command


def prompts_in(file: str) -> dict[str, Any]:
    """A file of prompts, one a line, or of JSON lines, each the call's arguments for a seed: a list for every argument.

    Raises:
        ValueError: no such file, no line in it, a line that is no JSON object where the first one is, other arguments in it.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"--prompts {file}: there is no such file; give one with a prompt a line, or JSON lines")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"--prompts {file} is empty: write a prompt on each line")
    if not lines[0].startswith("{"):
        return {"prompt": lines}
    calls = []
    for number, line in enumerate(lines, 1):
        try:
            calls.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"--prompts {file}, line {number} is no JSON: {error}") from error
        if not isinstance(calls[-1], dict) or set(calls[-1]) != set(calls[0]):
            raise ValueError(
                f"--prompts {file}, line {number}: every line names the same arguments, {', '.join(calls[0])}; got {line:.60}"
            )
    return {name: [call[name] for call in calls] for name in calls[0]}


def said_call(prompts: str | None, call: Sequence[str]) -> dict[str, Any] | None:
    """Arguments of the pipeline's call out of --prompts FILE and --call KEY=VALUE; None where nothing was said."""
    found = {} if prompts is None else prompts_in(prompts)
    for text in call:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise click.BadParameter(f"{text!r} is not key=value", param_hint="--call")
        if name in found:
            raise ValueError(f"{name} is said twice: leave --call {text:.40} away, or the other")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found or None


def _keep_prompts(ctx: click.Context, _: click.Parameter, file: str | None) -> None:
    ctx.meta[PROMPTS] = file


def _with_prompts(ctx: click.Context, _: click.Parameter, call: Sequence[str]) -> dict[str, Any] | None:
    return said_call(ctx.meta.get(PROMPTS), call)


# What a pipeline is called with, and where.
SEED = click.option("--seed", default=0, show_default=True, help="Seed of the first image; image i has seed + i.")
CONDITIONS = (
    click.option(
        "--classes",
        type=NUMBERS,
        metavar="0,1,...",
        help="Class labels, taken in turn by seed  [our pipelines: all]",
    ),
    click.option("--prompt", help="Text, for a pipeline that takes one."),
    click.option(
        "--prompts",
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_keep_prompts,
        help="A prompt a line, or JSON lines of call arguments, taken in turn by seed.",
    ),
    click.option(
        "--call",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_with_prompts,
        help="Of the pipeline's own call, as JSON or text; a list is taken by seed.",
    ),
)
OPTION = click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Solver option, e.g. order=3.")
DTYPE = click.option(
    "--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32", show_default=True
)
CALL = (
    SEED,
    *CONDITIONS,
    click.option("--guidance", type=float, help="Guidance scale  [default: the pipeline's]"),
    DTYPE,
    OPTION,
)
PLACE = (
    click.option("--device", help="cpu, cuda, mps ...  [default: a GPU where there is one]"),
    click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Images at once."),
)
NOISE = click.option(
    "--noise",
    type=click.Choice(["independent", "brownian"]),
    default="independent",
    show_default=True,
    help="Of stochastic solvers; brownian: the same image at any --nfe.",
)


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """The argument and options that say what is sampled: shared by `sample` and `compare`."""
    return decorated(command, (click.argument("model", default="demo"), *CALL, *PLACE))
