"""What the commands of all folders share: kinds of arguments, the options that say what is sampled, progress."""

import ast
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

T = TypeVar("T")


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


# What a pipeline is called with, and where.
SEED = click.option("--seed", default=0, show_default=True, help="Seed of the first image; image i has seed + i.")
CONDITIONS = (
    click.option("--classes", type=NUMBERS, metavar="0,1,...", help="Class labels, taken in turn by seed; demo: all."),
    click.option("--prompt", help="Text, for a pipeline that takes one."),
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
