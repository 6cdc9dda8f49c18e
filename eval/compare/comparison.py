"""What `fewstep compare` does: who is compared, and how the command tells of it. The measuring is `curve`."""

import shlex
from collections.abc import Sequence
from typing import Any

import click

from fewstep.arguments import ARGUMENTS, parsed, watched
from fewstep.checks import seconds_in
from fewstep.eval.compare.metric_curves import curve
from fewstep.eval.report.curves import Curves
from fewstep.eval.shared_noise.measures import MEASURES
from fewstep.eval.shared_noise.trials import AUTO_GRIDS
from fewstep.output.comparison_page import THEMES
from fewstep.output.places import prove_file, prove_folder
from fewstep.samplers.building.solver_entry import SOLVERS
from fewstep.samplers.grids.grid_entry import GRIDS
from fewstep.samplers.pipeline.contenders import Contender, learned_file, the_only

# The solvers that are run where none is named: one or two of each family, all deterministic.
DEFAULT_SOLVERS = (
    "ddim",
    "heun",
    "dpm_2",
    "dpm_3",
    "dpmpp_2s",
    "dpmpp_2m",
    "dpmpp_3m",
    "deis",
    "unipc",
    "res_multistep",
    "etd_rk3",
    "ipndm_v",
)
FIRST = ("unipc", "deis", "dpmpp_2m", "ddim")  # of a race: what is most often best begins, and what all compare with
IMAGES, RACED = 16, 64  # where no number is said
LINES = 20  # of a table in a terminal


def compare_solvers(
    solvers: Sequence[str] | None,
    nfes: Sequence[int],
    *,
    learned: Sequence[str],
    grids: Sequence[str] | None,
    number: int | None,
    budget: str | None,
    metrics: Sequence[str],
    images: int,
    reference: Sequence[str],
    resume: str | None,
    theme: str,
    out: str,
    form: str,
    options: Sequence[str],
    real: str | None,
    model: str,
    seed: int,
    **how: Any,
) -> None:
    """Draw, print tables and recommendations in this form, write the files; the arguments are the options of the command."""
    if theme not in THEMES:
        raise ValueError(f"--theme is auto, light or dark; got {theme!r}")
    (prove_file if out.endswith(".html") else prove_folder)(out, "--out")
    if resume:
        prove_folder(resume, "--resume")
    seconds = None if budget is None else seconds_in(budget, "--budget")
    number = number or (IMAGES if seconds is None else RACED)
    if number < 2:
        raise ValueError(f"an interval needs two images, better sixteen; got -n {number}")
    files = [learned_file(name) for name in learned]
    for file in files:
        how["guidance"] = _guidance_of(file, nfes, how["guidance"])
    if real is None and model == "demo" and any(name not in MEASURES for name in metrics):
        real = "mnist"
    found = curve(
        model, [*files, *entrants(solvers, grids, racing=seconds is not None)], nfes, real,
        metrics if any(name in MEASURES for name in metrics) else ("rmse", *metrics), max(images, number), seed,
        pairs=number, options=dict(map(parsed, options)), reference=dict(map(parsed, reference)) or None,
        state=resume, seconds=seconds, watch=watched, **how,
    )  # fmt: skip
    click.echo(_text(found) if form == "text" else _csv(found) if form == "csv" else found.to_json())
    for path in found.write(out, theme=theme, command=_command()):
        click.echo(f"wrote {path}", err=form != "text")


def entrants(solvers: Sequence[str] | None, grids: Sequence[str] | None, racing: bool = False) -> list[str]:
    """Names of who runs: each solver on each grid, those apart that have a grid of their own or choose their steps."""
    families = {("all",): ode_solvers, ("sde",): stochastic_solvers}
    named = tuple(solvers or (("all",) if racing else DEFAULT_SOLVERS))
    named = families[named]() if named in families else named
    if racing:
        named = (*[name for name in FIRST if name in named], *[name for name in named if name not in FIRST])
    grids = tuple(grids or (("auto",) if racing else ()))
    grids = AUTO_GRIDS if grids == ("auto",) else tuple(GRIDS) if grids == ("all",) else grids
    found: list[str] = []
    for name in named:
        own = Contender(name)
        free = own.nfes is None and own.grid is None and not own.adaptive
        found += [f"{name} on {grid}" for grid in grids] if grids and free else [name]
    return list(dict.fromkeys(found))


def ode_solvers() -> tuple[str, ...]:
    """Every registered solver that is a table and draws no noise."""
    return tuple(name for name, entry in SOLVERS.items() if entry.kind == "tableau" and not entry.stochastic)


def stochastic_solvers() -> tuple[str, ...]:
    """Every registered table that draws noise and converges."""
    return tuple(n for n, entry in SOLVERS.items() if entry.kind == "tableau" and entry.stochastic and entry.order)


def _guidance_of(name: Contender, nfes: Sequence[int], guidance: float | None) -> float | None:
    """The scale of all: what was given, else an artefact's where it has one. ValueError: it has no table to compare."""
    artefact = name.learned
    assert artefact is not None
    if not set(nfes) & set(artefact.nfes):
        raise ValueError(
            f"{name} has tables for nfe {', '.join(map(str, artefact.nfes))}, and --nfe names none of them"
        )
    scale: float | None = the_only(artefact.guidances) if guidance is None else guidance
    return scale


def _text(found: Curves) -> str:
    """Tables for a terminal, of many entrants those with a best or nearly best place; remarks; what to take."""
    return found.leading(LINES).text() if len(found.solvers) > LINES else found.text()


def _csv(found: Curves) -> str:
    """One line a solver, grid and nfe: solver,grid,nfe, and value, low and high of each metric."""
    head = ["solver", "grid", "nfe", "images", "seconds"]
    lines = [",".join([*head, *(f"{m},{m}_low,{m}_high" for m in found.metrics)])]
    for point in found.points:
        counts = max((r.n or 0 for r in point.report.values()), default=0)
        seconds = "" if point.cost is None or point.cost.seconds is None else f"{point.cost.seconds:.6g}"
        cells = [str(point.solver).split(" on ")[0], point.grid, str(point.nfe), str(counts), seconds]
        for metric in found.metrics:
            result = point.report.get(metric)
            ends = (None, None) if result is None or result.interval is None else result.interval
            cells += ["" if v is None else repr(float(v)) for v in (result and result.value, *ends)]
        lines.append(",".join(cells))
    return "\n".join(lines)


def _command() -> str:
    """The command that was typed."""
    return shlex.join(["fewstep", *map(str, click.get_current_context().find_root().meta.get(ARGUMENTS, ()))])
