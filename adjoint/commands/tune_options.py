"""The command `fewstep tune`: its options. The work is in `tune_results`, imported when it is done."""

from collections.abc import Callable
from typing import Any

import click

from fewstep.arguments import CONDITIONS, DTYPE, NAMES, OPTION, PLACE, decorated

TABLE = (
    click.argument("model", default="demo"),
    click.option(
        "--solver", default="ddim", show_default=True, help="Name, or FILE.json of a table or learned artefact."
    ),
    click.option("--nfe", type=click.IntRange(1), help="Evaluations of the table  [default: 4, or the file's own]"),
    click.option("--grid", help="A name that `fewstep grids` lists  [default: the model's]"),
    click.option("--loss", default="pairs", show_default=True, help="One of --losses, or a sum of them: mmd+hold."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="LOSS.KEY=VALUE",
        help="Of a loss: pairs.way=along, hold.weight=0.1.",
    ),
    click.option("--data", metavar="SOURCE", help="For mmd and FD: what `fewstep fid` reads, or teacher."),
    click.option(
        "--extractor", help="What data is looked at by  [default: digits for the embedded model, else inception]"
    ),
    click.option(
        "--judge", type=click.Choice(("loss", "error")), default="loss", show_default=True, help="What decides."
    ),
    OPTION,
    *CONDITIONS,
    click.option("--guidance", type=float, help="Guidance scale  [default: the pipeline's]"),
    DTYPE,
    *PLACE,
)
WEIGHTS = (
    click.option(
        "--weights",
        type=click.Choice(("all", "lora")),
        default="all",
        show_default=True,
        help="All, or low-rank parts.",
    ),
    click.option("--rank", type=click.IntRange(1), default=8, show_default=True, help="Of low-rank parts."),
    click.option(
        "--targets", type=NAMES, metavar="WORD,...", help="Layers whose names have one of these words  [default: all]"
    ),
    click.option("--steps", type=click.IntRange(1), default=300, show_default=True, help="Of Adam."),
    click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Samples of a pass."),
    click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Passes of a step."),
    click.option("--lr", type=click.FloatRange(0, min_open=True), help="Peak rate  [default: 1e-4, low-rank 1e-3]"),
    click.option("--ema", type=float, default=0.99, show_default=True, help="Decay of the average that is kept."),
    click.option("--every", type=click.IntRange(1), default=25, show_default=True, help="Steps between looks."),
    click.option("--last", type=click.IntRange(1), help="Gradients through the last rows only  [default: all]"),
    click.option(
        "--method", default="checkpoint", show_default=True, help="Of the gradient; direct: faster, more memory."
    ),
    click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Limit of the steps."),
)
WORK = (
    click.option("-n", "--number", type=click.IntRange(1), default=1024, show_default=True, help="Seeds learned on."),
    click.option(
        "--guard", type=click.IntRange(1), default=512, show_default=True, help="Untouched ones, which decide."
    ),
    click.option("--seed", default=0, show_default=True, help="Seed of the first sample."),
    click.option("--teacher-nfe", type=click.IntRange(1), help="Evaluations of the reference  [default: 60]"),
    click.option("--teacher-solver", help="Solver of the reference  [default: dpmpp_3m]"),
    click.option("--cache", metavar="DIR", help="Folder of reference runs  [default: ~/.cache/fewstep/teachers]"),
    click.option("--no-cache", is_flag=True, help="Keep reference runs in memory."),
    click.option("--resume", metavar="DIR", help="Keep the state in DIR, and go on from what is there."),
    click.option(
        "--out", default="tuned", show_default=True, metavar="DIR", help="Where weights, table and report go."
    ),
    click.option("--losses", "list_losses", is_flag=True, help="List the losses, plug-ins' too, and do nothing else."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)


def tune_options(command: Callable[..., None]) -> Callable[..., None]:
    """All of them, in the order of the help."""
    return decorated(command, (*TABLE, *WEIGHTS, *WORK))


@click.command()
@tune_options
def tune(**given: Any) -> None:
    """Tune the weights of MODEL to one table of few evaluations: certainly better on untouched seeds, or it says so.

    \b
    fewstep tune demo --solver ddim --nfe 4 --loss mmd --data mnist-test --out tuned
    fewstep tune demo --solver five.json --loss pairs+hold --set hold.weight=0.1
    fewstep tune demo --nfe 2 --weights lora --rank 8
    fewstep sample tuned --learned tuned/table.json --nfe 4

    DIR gets a pipeline that plays its table, or with --weights lora an adapter; the report is tuned.json. Ctrl-C keeps the
    best so far.
    """
    from fewstep.adjoint.commands.tune_results import work

    work(given)
