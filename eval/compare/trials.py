"""Solvers against each other on shared noise: the error of every image to a long reference run, as a table.

    error of image i at n evaluations = sqrt( mean over its entries of (x0_n - x0_reference)^2 )

The reference of solvers of the probability flow is one long run for all. A stochastic solver goes elsewhere: its reference
is its own run of LONGER times the evaluations on the same Brownian paths. Solvers that choose their steps are run at a
ladder of tolerances; a column has the best run that spent no more on average.

Nothing here knows the command line or a picture; fewstep.pictures draws the rows.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, log
from typing import TYPE_CHECKING, Any

from fewstep.output.page import Table

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from fewstep.samplers.artefact.artefact import Artefact
    from fewstep.samplers.pipeline.source import Source

# The solvers that `compare` runs where none is named: one or two of each family, all deterministic.
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
# Tried in turn for `--grid auto`; the ones that a schedule has no use for drop out.
AUTO_GRIDS = ("uniform", "quadratic", "logsnr", "karras", "beta")
# Multiples of a driver's own tolerances, and how much longer than the last column a stochastic reference is.
LADDER = (64.0, 16.0, 4.0, 1.0, 0.25, 0.0625)
LONGER = 8
# The reference. On the embedded digits it is 0.0005 from runs of 1000 evaluations (which agree with each other to 1e-5):
# smaller errors than that mean nothing in a table.
REFERENCE: dict[str, Any] = {"solver": "dpmpp_3m", "nfe": 200, "grid": "karras"}


def ode_solvers() -> tuple[str, ...]:
    """Every registered solver that is a table and draws no noise."""
    from fewstep.samplers.building.solver_entry import SOLVERS

    return tuple(name for name, entry in SOLVERS.items() if entry.kind == "tableau" and not entry.stochastic)


def stochastic_solvers() -> tuple[str, ...]:
    """Every registered table that draws noise and converges."""
    from fewstep.samplers.building.solver_entry import SOLVERS

    return tuple(n for n, entry in SOLVERS.items() if entry.kind == "tableau" and entry.stochastic and entry.order)


def told(spec: dict[str, Any]) -> str:
    """A run in words."""
    return "{nfe} evaluations of {solver} on {grid}".format(**spec)


@dataclass(frozen=True)
class Curve:
    """One solver on one grid: at each nfe, the mean and the worst error of the images, and the images and reference themselves.

    Errors are infinite where an adaptive solver has no run that cheap.
    """

    solver: str
    grid: str
    nfes: tuple[int, ...]
    rmse: tuple[float, ...]
    worst: tuple[float, ...]
    samples: "tuple[Tensor, ...]"
    reference: "Tensor"

    @property
    def score(self) -> float:
        """Geometric mean of the errors over all nfe: what the best grid of a solver is chosen by."""
        finite = [log(max(e, 1e-30)) for e in self.rmse if isfinite(e)]
        return exp(sum(finite) / len(finite)) if finite else inf


def image_errors(x0: "Tensor", truth: "Tensor") -> "Tensor":
    """Root mean square difference of each image: (B, *shape), (B, *shape) -> (B,) in float64."""
    return (x0.double() - truth.double()).flatten(1).square().mean(1).sqrt()


def run_curve(
    draw: "Callable[..., Tensor]", truth: "Tensor", solver: str, nfes: Sequence[int], grid: str, **options: Any
) -> Curve:
    """`draw(solver=, nfe=, grid=, **options) -> x0` at every nfe, compared with `truth`."""
    return _curve(solver, grid, nfes, [draw(solver=solver, nfe=n, grid=grid, **options) for n in nfes], truth)


def stochastic_curve(
    draw: "Callable[..., Tensor]", solver: str, nfes: Sequence[int], grid: str, **options: Any
) -> Curve:
    """The same for a solver with noise, against its own longer run on the same Brownian paths."""
    how = {"solver": solver, "grid": grid, "noise": "brownian", **options}
    return _curve(solver, grid, nfes, [draw(nfe=n, **how) for n in nfes], draw(nfe=LONGER * max(nfes), **how))


def adaptive_curve(
    draw: "Callable[..., tuple[Tensor, float]]",
    truth: "Tensor | None",
    solver: str,
    nfes: Sequence[int],
    **options: Any,
) -> Curve:
    """A solver that chooses its steps, at a ladder of tolerances. `draw(...) -> (x0, mean nfe)`.

    truth: None takes the solver's own run at a sixteenth of the last tolerances.
    """
    import torch

    from fewstep.samplers.building.solver_entry import SOLVERS

    own = {name: value for name, value in SOLVERS[solver].options.items() if name in ("rtol", "atol")}

    def run(factor: float) -> "tuple[Tensor, float]":
        return draw(solver=solver, nfe=10**6, **{name: factor * value for name, value in own.items()}, **options)

    runs, last = [], LADDER[-1]
    for factor in LADDER:
        runs.append(run(factor))
        if runs[-1][1] > max(nfes):
            last = factor
            break
    if truth is None:
        truth, _ = run(last / 16)
    blank = torch.full_like(runs[0][0], inf)
    best = []
    for n in nfes:
        fitting = [x0 for x0, spent in runs if spent <= n]
        best.append(min(fitting, key=lambda x0: float(image_errors(x0, truth).mean()), default=blank))
    return _curve(solver, "its own", nfes, best, truth)


def _curve(solver: str, grid: str, nfes: Sequence[int], samples: "Sequence[Tensor]", truth: "Tensor") -> Curve:
    errors = [image_errors(x0, truth) for x0 in samples]
    return Curve(
        solver,
        grid,
        tuple(nfes),
        tuple(float(e.mean()) for e in errors),
        tuple(float(e.max()) for e in errors),
        tuple(x0.cpu() for x0 in samples),
        truth.cpu(),
    )


def _spread(row: Curve, label: str, nfes: Sequence[int]) -> Curve:
    """A curve over more nfe than it has runs for: errors and images are infinite there."""
    import torch

    at = {n: k for k, n in enumerate(row.nfes)}
    blank = torch.full_like(row.reference, inf)
    return Curve(
        label,
        row.grid,
        tuple(nfes),
        tuple(row.rmse[at[n]] if n in at else inf for n in nfes),
        tuple(row.worst[at[n]] if n in at else inf for n in nfes),
        tuple(row.samples[at[n]] if n in at else blank for n in nfes),
        row.reference,
    )


def best_curve(
    draw: "Callable[..., Tensor]",
    truth: "Tensor | None",
    solver: str,
    nfes: Sequence[int],
    grids: Sequence[str],
    **options: Any,
) -> Curve:
    """The row of the grid with the smallest geometric mean error; a grid that does not fit the solver is passed over.

    Raises:
        ValueError: the solver runs on none of the grids (the last reason is told).
    """
    from fewstep.samplers.building.solver_entry import SOLVERS

    rows: list[Curve] = []
    reason = None
    for grid in grids:
        try:
            if truth is None or SOLVERS[solver].stochastic:
                rows.append(stochastic_curve(draw, solver, nfes, grid, **options))
            else:
                rows.append(run_curve(draw, truth, solver, nfes, grid, **options))
        except ValueError as error:
            reason = error
    if not rows:
        raise ValueError(f"solver {solver!r} runs on none of the grids {list(grids)}: {reason}") from reason
    return min(rows, key=lambda row: row.score)


class Trials:
    """Numbered samples of a source, drawn by every solver from the same noise.

    Attributes:
        batches: the samples in the source's batches. reference: solver, nfe and grid of the run that solvers of the
            probability flow are compared with. usual_grid: the grid where nobody names one.
    """

    def __init__(self, source: "Source", seeds: Sequence[int], reference: dict[str, Any] | None = None) -> None:
        self.source, self.seeds, self.reference = source, seeds, dict(reference or REFERENCE)
        self.batches = source.batches(seeds)
        self.usual_grid: str = self.batches[0].denoiser.schedule.default_grid
        self._truth: Tensor | None = None

    def draw(self, **how: Any) -> "Tensor":
        """x0 (B, *shape) of all seeds by one solver at one nfe."""
        import torch

        return torch.cat([batch.draw(**how) for batch in self.batches])

    def draw_alone(self, **how: Any) -> "tuple[Tensor, float]":
        """The same with each sample by itself, for solvers that choose their steps, and the mean of their evaluations."""
        import torch

        runs = [batch.run(**how) for batch in self.source.batches(self.seeds, alone=True)]
        return torch.cat([x0 for x0, _ in runs]), sum(info.nfe for _, info in runs) / len(runs)

    def images(self, x0: "Tensor") -> "list[Image]":
        """The first len(x0) samples as the pipeline's own pictures."""
        parts = x0.split(len(self.batches[0].seeds))
        return [image for batch, part in zip(self.batches, parts, strict=False) for image in batch.images(part)]

    def truth(self, progress: bool = False) -> "Tensor":
        """x0 of the reference, drawn once."""
        if self._truth is None:
            self._truth = self.draw(**self.reference, progress=progress)
        return self._truth

    def curve(self, name: str, nfes: Sequence[int], grid: str | None = None, **options: Any) -> Curve:
        """One solver by name or alias at every nfe; grid: a name, "auto" for the best of a few, None for the usual one.

        A learned artefact, by its file, has no error and no image at an nfe that it has no table for.
        """
        from fewstep.samplers.building.solver_entry import SOLVERS, resolve
        from fewstep.samplers.pipeline.contenders import artefact_of, label

        if (learned := artefact_of(name)) is not None:
            return _spread(self._learned(name, learned, nfes), label(name), nfes)
        solver, folk_grid = resolve(name)
        to = None if SOLVERS[solver].stochastic else self.truth()
        if SOLVERS[solver].adaptive:
            return adaptive_curve(self.draw_alone, to, solver, nfes, **options)
        tried = AUTO_GRIDS if grid == "auto" else (grid or folk_grid or self.usual_grid,)
        return best_curve(self.draw, to, solver, nfes, tried, **options)

    def _learned(self, name: str, learned: "Artefact", nfes: Sequence[int]) -> Curve:
        """An artefact at those nfe that it has tables for."""
        known, first = [n for n in nfes if n in learned.nfes], learned.tables[0].tableau
        if not first.stochastic:
            return run_curve(self.draw, self.truth(), name, known, "learned")
        longer = self.draw(solver=first.name, nfe=LONGER * max(nfes), noise="brownian", **first.options)
        drawn = [self.draw(solver=name, nfe=n, noise="brownian") for n in known]
        return _curve(name, "learned", known, drawn, longer)


def table(rows: Sequence[Curve]) -> Table:
    """One line a solver, one column an nfe; the smallest error of each column is marked."""
    best = [min(row.rmse[j] for row in rows) for j in range(len(rows[0].nfes))]
    marked = frozenset((i, j + 2) for i, row in enumerate(rows) for j, least in enumerate(best) if row.rmse[j] == least)
    cells = [[row.solver, row.grid, *(f"{e:.5f}" if isfinite(e) else "-" for e in row.rmse)] for row in rows]
    return Table(["solver", "grid", *(f"nfe {n}" for n in rows[0].nfes)], cells, names=2, best=marked)


def csv_table(rows: Sequence[Curve]) -> str:
    """One line a solver and nfe: solver,grid,nfe,rmse,worst."""
    lines = ["solver,grid,nfe,rmse,worst"]
    for row in rows:
        lines += [f"{row.solver},{row.grid},{n},{e},{w}" for n, e, w in zip(row.nfes, row.rmse, row.worst, strict=True)]
    return "\n".join(lines)


def json_table(rows: Sequence[Curve], **about: Any) -> str:
    """The same as JSON, beside whatever tells how it was made."""
    listed = [
        {"solver": r.solver, "grid": r.grid, "nfe": list(r.nfes), "rmse": _numbers(r.rmse), "worst": _numbers(r.worst)}
        for r in rows
    ]
    return json.dumps({**about, "rows": listed}, indent=1)


def _numbers(values: Sequence[float]) -> list[float | None]:
    """What JSON can hold: None for infinity."""
    return [value if isfinite(value) else None for value in values]
