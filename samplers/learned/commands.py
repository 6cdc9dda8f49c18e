"""The commands `fewstep learn` and `fewstep show`. torch is imported inside them, never by `--help`."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewstep.arguments import CONDITIONS, DTYPE, NUMBERS, OPTION, PLACE, SCALES, decorated, parsed

if TYPE_CHECKING:
    from fewstep.samplers.artefact.artefact import Artefact
    from fewstep.samplers.learned.tasks.task import Progress

INTERRUPTED = 130  # exit code, as shells have it
MODEL = (
    click.argument("model", default="demo"),
    click.option(
        "--solver", default="dpmpp_2m", show_default=True, help="What is corrected; `auto`: the best of a few."
    ),
    click.option(
        "--nfe", "nfes", type=NUMBERS, metavar="N,...", default="5", show_default=True, help="A table for each."
    ),
    click.option("--method", default="auto", show_default=True, help="auto, a method, or several in turn: oss+iia."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="METHOD.KEY=VALUE",
        help="Of a method, e.g. iia.window=3, auto.refine=newton+joint.",
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
    click.option("--guard", type=click.IntRange(1), default=128, show_default=True, help="Untouched ones that decide."),
    click.option("--seed", default=0, show_default=True, help="Seed of the first sample."),
    click.option("--guard-seed", type=int, help="Of the first untouched one  [default: the next thousand]"),
    click.option(
        "--teacher-nfe", type=click.IntRange(1), help="Evaluations of the reference  [default: 60; with noise 200]"
    ),
    click.option("--teacher-solver", help="Solver of the reference  [default: dpmpp_3m; with noise its own]"),
    click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Limit of each stage with gradients."),
    click.option("--cache", metavar="DIR", help="Folder of reference runs  [default: ~/.cache/fewstep/teachers]"),
    click.option("--no-cache", is_flag=True, help="Keep reference runs in memory."),
    click.option("--resume", metavar="DIR", help="Keep finished stages in DIR, and go on from what is there."),
    click.option("--out", default="learned.json", show_default=True, metavar="FILE.json", help="Where the tables go."),
    click.option("--estimate", is_flag=True, help="Only say what it would cost: evaluations, memory, minutes."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON; tell progress as lines of JSON on stderr."),
)


def learn_options(command: Callable[..., None]) -> Callable[..., None]:
    """All of them, in the order of the help."""
    return decorated(command, (*MODEL, *WORK))


@click.command()
@learn_options
def learn(
    model: str,
    solver: str,
    nfes: Sequence[int],
    method: str,
    settings: Sequence[str],
    options: Sequence[str],
    out: str,
    estimate: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Learn grid, weights and network times of a solver for MODEL: certainly better than any fixed recipe, or it says so.

    \b
    fewstep learn demo --nfe 5,8 --estimate
    fewstep learn demo --nfe 5,8 --out five.json
    fewstep learn demo --nfe 5 --method oss+iia --set iia.window=3
    fewstep learn demo --nfe 5 --set steps=140 --set refine=newton+joint

    The network's weights stay as they are. Ctrl-C once keeps the best so far; twice, or a failure, leaves FILE as it was.
    """
    if not out.endswith(".json"):
        raise ValueError(f"{out!r} is to be written as .json: give a name that ends so")
    spec = {
        "model": model,
        "solver": solver,
        "nfe": nfes,
        "method": stages(method, settings),
        "solver_options": dict(map(parsed, options)),
        **samples(given),
        "teacher": {k: given[f"teacher_{k}"] for k in ("solver", "nfe") if given[f"teacher_{k}"] is not None},
        **{name: given[name] for name in ("guidance", "classes", "prompt", "dtype", "batch_size", "device", "seconds")},
    }
    if estimate:
        from fewstep.samplers.learned.estimate import estimate as estimated

        told = estimated(**spec)
        click.echo(told.to_json() if as_json else told.text())
        return
    from fewstep.samplers.learned.learning import learn as learned

    keep = {"cache": False if given["no_cache"] else given["cache"], "resume": given["resume"]}
    try:
        artefact = learned(**spec, **keep, progress=_line if as_json else True)
        artefact.save(out)
    except KeyboardInterrupt:
        left = "as it was" if Path(out).exists() else "not written"
        click.echo(f"interrupted before there was something to keep; {out} is {left}", err=True)
        sys.exit(INTERRUPTED)
    click.echo(json.dumps(told_of(artefact, out), indent=1) if as_json else outcome(artefact).text())
    if any(stage.get("interrupted") for t in artefact.tables for stage in t.stages):
        tables = ", ".join(t.place for t in artefact.tables)
        click.echo(
            f"interrupted: the best so far was tested on untouched seeds; there are tables for {tables}", err=True
        )
    click.echo(f"wrote {out}", err=as_json)
    if not as_json:
        first = artefact.tables[0]
        scale = "" if len(artefact.guidances) < 2 else f" --guidance {first.guidance:g}"
        where = "" if model == "demo" else f" {model}"
        click.echo(f"next: fewstep show {out}; fewstep sample{where} --learned {out} --nfe {first.nfe}{scale}")


def stages(method: str, settings: Sequence[str]) -> Any:
    """ "oss+iia" and ["iia.window=3"] -> [("oss", {}), ("iia", {"window": 3})]; words are joined as stages are."""
    names = [name.strip() for name in method.split("+")]
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for text in settings:
        name, dot, rest = text.partition(".")
        if not dot or "=" in name:
            name, rest = names[0], text
            if len(names) > 1:
                raise ValueError(f"{text!r} must say of which method it is: {names[0]}.{text}")
        if name not in found:
            raise ValueError(f"{text!r} is for {name!r}, which is no stage of {method!r}")
        key, value = parsed(rest)
        words = value.split("+") if isinstance(value, str) and "+" in value else value
        found[name][key] = tuple(words) if isinstance(words, list) else words
    return [(name, found[name]) for name in names]


def samples(given: dict[str, Any]) -> dict[str, range]:
    """Seeds to learn on, and the guard's, which begin a thousand later or right after them."""
    first, number = given["seed"], given["number"]
    guard = first + max(1000, number) if given["guard_seed"] is None else given["guard_seed"]
    return {"seeds": range(first, first + number), "guard_seeds": range(guard, guard + given["guard"])}


def _line(p: "Progress") -> None:
    """Progress for machines."""
    told = {name: getattr(p, name) for name in ("stage", "step", "steps", "best", "base", "spent")}
    click.echo(json.dumps({**told, "nfe": p.table.nfe, "seconds": round(p.seconds, 3)}), err=True)


def outcome(artefact: "Artefact") -> Any:
    """The table of what was won, one line a learned table."""
    from fewstep.output.page import Table
    from fewstep.samplers.learned.report.showing import ratio

    head = [
        "nfe",
        "guidance",
        "best fixed recipe",
        "rms / median",
        "learned",
        "rms ratio",
        "median ratio",
        "worse in",
        "status",
    ]
    rows = []
    for t in artefact.tables:
        errors = [t.report[name]["test"] for name in ("best_fixed", "learned")]
        test = t.report["test"]
        rows.append(
            [str(t.nfe), "-" if t.guidance is None else f"{t.guidance:g}", t.report["best_fixed_recipe"]]
            + [f"{e['rms']:.4g} / {e['median']:.4g}" for e in errors]
            + [ratio(test["rms"]), ratio(test["median"]), f"{100 * test['worse']:.0f} %", t.status]
        )
    return Table(
        head,
        rows,
        names=3,
        caption="Error to the reference on untouched seeds; ratios with 95 % intervals",
    )


def told_of(artefact: "Artefact", out: str) -> dict[str, Any]:
    """The same for machines."""
    tables = [{"nfe": t.nfe, "guidance": t.guidance, "status": t.status, **t.report} for t in artefact.tables]
    return {"file": out, "hash": artefact.hash, "tables": tables}


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
    kinds = (".png", ".svg", ".pdf", ".html")
    if out is not None and not out.lower().endswith(kinds):
        raise ValueError(f"{out!r} does not end like a picture or page; use one of {', '.join(kinds)}")
    if file != "demo" and not Path(file).is_file():
        raise ValueError(f"there is no file {file!r}: give what `fewstep learn` wrote, or demo")
    from fewstep.samplers.artefact.artefact import as_artefact
    from fewstep.samplers.learned.report import showing
    from fewstep.samplers.table.stored import load

    loaded = as_artefact(file) if file == "demo" else load(file)
    found = showing.views(loaded, nfe, guidance)
    click.echo("\n\n\n".join(showing.text(view) for view in found))
    if out is not None:
        showing.write(found, Path(out), f"Tables of {Path(file).name}")
        click.echo(f"wrote {out}")
