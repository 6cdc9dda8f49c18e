"""The commands `fewstep learn` and `fewstep show`. Their work is in `terminal`, imported when it is done."""

from collections.abc import Callable
from typing import Any

import click

from fewstep.arguments import CONDITIONS, DTYPE, NUMBERS, OPTION, PLACE, SCALES, decorated

MODEL = (
    click.argument("model", default="demo"),
    click.option("--solver", default="auto", show_default=True, help="What is corrected; `auto`: the best of all."),
    click.option(
        "--nfe", "nfes", type=NUMBERS, metavar="N,...", default="5", show_default=True, help="A table for each."
    ),
    click.option(
        "--method", default="auto", show_default=True, help="auto, one of --methods, or several in turn: oss+iia."
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="METHOD.KEY=VALUE",
        help="Of a method, e.g. iia.window=3, auto.refine=newton+joint.",
    ),
    click.option(
        "--loss",
        metavar="NAME",
        help="What is lowered: pixels, lpips, features, features:EXTRACTOR, of decoded images  [default: latent error]",
    ),
    click.option(
        "--judge",
        type=click.Choice(("loss", "latent")),
        default="loss",
        show_default=True,
        help="What chooses and tests tables: the loss too, or the latent error.",
    ),
    OPTION,
    *CONDITIONS,
    click.option(
        "--guidance", type=SCALES, metavar="G,...", help="Scales, a table for each  [default: the pipeline's]"
    ),
    DTYPE,
    *PLACE,
)
WORK = (
    click.option("-n", "--number", type=click.IntRange(1), default=192, show_default=True, help="Samples learned on."),
    click.option(
        "--guard",
        type=click.IntRange(1),
        default=1024,
        show_default=True,
        help="Untouched ones that decide, at most: 128, then twice as many while it is open.",
    ),
    click.option("--seed", default=0, show_default=True, help="Seed of the first sample."),
    click.option("--guard-seed", type=int, help="Of the first untouched one  [default: the next thousand]"),
    click.option(
        "--teacher-nfe",
        type=click.IntRange(1),
        help="Evaluations of the reference  [default: 60, or 6 times nfe; with noise 200]",
    ),
    click.option("--teacher-solver", help="Solver of the reference  [default: dpmpp_3m; with noise its own]"),
    click.option(
        "--rivals/--no-rivals",
        default=True,
        show_default=True,
        help="Beat the best recipe of all solvers, or of the same one alone.",
    ),
    click.option(
        "--budget",
        metavar="N|TIME",
        help="Network evaluations for all of it, or a time: 3000, 30min; seeds and stages follow.",
    ),
    click.option("--memory", metavar="SIZE", help="Samples at once so that this suffices: 24GB."),
    click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Limit of each stage with gradients."),
    click.option("--cache", metavar="DIR", help="Folder of reference runs  [default: ~/.cache/fewstep/teachers]"),
    click.option("--no-cache", is_flag=True, help="Keep reference runs in memory."),
    click.option("--resume", metavar="DIR", help="Keep finished stages in DIR, and go on from what is there."),
    click.option("--transfer", is_flag=True, help="Also measure them with other seeds, guidance, words and adapters."),
    click.option("--out", default="learned.json", show_default=True, metavar="FILE.json", help="Where the tables go."),
    click.option("--estimate", is_flag=True, help="Only say what it would cost: evaluations, memory, minutes."),
    click.option(
        "--methods", "list_methods", is_flag=True, help="List the methods, plug-ins' too, and do nothing else."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON; tell progress as lines of JSON on stderr."),
)


def learn_options(command: Callable[..., None]) -> Callable[..., None]:
    """All of them, in the order of the help."""
    return decorated(command, (*MODEL, *WORK))


@click.command()
@learn_options
def learn(**given: Any) -> None:
    """Learn grid, weights and network times of a solver for MODEL: certainly better than any fixed recipe, or it says so.

    \b
    fewstep learn demo --nfe 5,8 --estimate
    fewstep learn demo --nfe 5,8 --out five.json
    fewstep learn demo --nfe 5 --method oss+iia --set iia.window=3
    fewstep learn demo --nfe 5 --set steps=140 --set refine=newton+joint

    The network's weights stay as they are. Ctrl-C once keeps the best so far; twice, or a failure, leaves FILE as it was.
    """
    from fewstep.samplers.learned.terminal import work

    work(given)


@click.command()
@click.argument("file", metavar="FILE.json")
@click.option("--nfe", type=int, help="Of the table  [default: all]")
@click.option("--guidance", type=float, help="Of the table  [default: all]")
@click.option(
    "--out", metavar="PICTURE", help="Draw grid and weights: NAME.png, .svg, .pdf, or NAME.html with the tables."
)
def show(file: str, nfe: int | None, guidance: float | None, out: str | None) -> None:
    """Show the tables of a learned artefact ("demo": the embedded one), or of one saved table.

    Tells the rows, the weight of every evaluation in the result, how far errors of the network are amplified, what was
    measured when it was learned, and what to beware of.
    """
    from fewstep.samplers.learned.terminal import show as show_tables

    show_tables(file, nfe, guidance, out)
