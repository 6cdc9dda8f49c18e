"""The error of one solver over network evaluations: what `fewstep compare` has a line of, and how each kind of solver is run.

    error of image i at n evaluations = sqrt( mean over its entries of (x0_n - x0_reference)^2 )

The reference of solvers of the probability flow is one long run for all. A stochastic solver goes elsewhere: its reference
is its own run of LONGER times the evaluations on the same Brownian paths. Solvers that choose their steps are run at a
ladder of tolerances; an nfe has the best run that spent no more on average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, log
from typing import Any

from torch import Tensor

from fewstep.eval.shared_noise.kept_samples import Drawn
from fewstep.eval.shared_noise.measures import image_errors
from fewstep.samplers.building.solver_entry import SOLVERS

# Multiples of a driver's own tolerances, and how much longer than the last nfe a stochastic reference is.
LADDER = (64.0, 16.0, 4.0, 1.0, 0.25, 0.0625)
LONGER = 8
Draw = Callable[..., Drawn]


@dataclass(frozen=True)
class SolverErrors:
    """One solver on one grid: what it drew at each nfe, None where it has no run that cheap, and the reference for it."""

    solver: str
    grid: str
    nfes: tuple[int, ...]
    drawn: tuple[Drawn | None, ...]
    reference: Tensor

    @property
    def rmse(self) -> tuple[float, ...]:
        """Mean error of the images at each nfe, infinite where there is no run."""
        return tuple(inf if one is None else float(image_errors(one.x0, self.reference).mean()) for one in self.drawn)

    @property
    def score(self) -> float:
        """Geometric mean of the errors over all nfe: what the best grid of a solver is chosen by."""
        finite = [log(max(e, 1e-30)) for e in self.rmse if isfinite(e)]
        return exp(sum(finite) / len(finite)) if finite else inf

    def over(self, nfes: Sequence[int]) -> SolverErrors:
        """The same over more nfe than it has runs for."""
        at = dict(zip(self.nfes, self.drawn, strict=True))
        return SolverErrors(self.solver, self.grid, tuple(nfes), tuple(at.get(n) for n in nfes), self.reference)


def longer(nfes: Sequence[int]) -> int:
    """Evaluations of the run that a stochastic solver is compared with."""
    return LONGER * max(nfes)


def flow_errors(draw: Draw, truth: Tensor, solver: str, nfes: Sequence[int], grid: str, **options: Any) -> SolverErrors:
    """`draw(solver=, nfe=, grid=, **options)` at every nfe, compared with `truth`."""
    found = tuple(draw(solver=solver, nfe=n, grid=grid, **options) for n in nfes)
    return SolverErrors(solver, grid, tuple(nfes), found, truth)


def stochastic_errors(
    draw: Draw, solver: str, nfes: Sequence[int], grid: str, longest: int | None = None, **options: Any
) -> SolverErrors:
    """The same for a solver with noise, against its own run of `longest` evaluations on the same Brownian paths."""
    how = {"noise": "brownian", **options}
    truth = draw(solver=solver, nfe=longest or longer(nfes), grid=grid, **how).x0
    return flow_errors(draw, truth, solver, nfes, grid, **how)


def adaptive_errors(draw: Draw, truth: Tensor | None, solver: str, nfes: Sequence[int], **options: Any) -> SolverErrors:
    """A solver that chooses its steps, at a ladder of tolerances; `draw` gives the mean of its evaluations.

    truth: None takes the solver's own run at a sixteenth of the last tolerances.
    """
    own = {name: value for name, value in SOLVERS[solver].options.items() if name in ("rtol", "atol")}

    def run(factor: float) -> Drawn:
        return draw(solver=solver, nfe=10**6, **{name: factor * value for name, value in own.items()}, **options)

    runs, last = [], LADDER[-1]
    for factor in LADDER:
        runs.append(run(factor))
        if runs[-1].nfe > max(nfes):
            last = factor
            break
    reference = run(last / 16).x0 if truth is None else truth

    def error(one: Drawn) -> float:
        return float(image_errors(one.x0, reference).mean())

    best = tuple(min((one for one in runs if one.nfe <= n), key=error, default=None) for n in nfes)
    return SolverErrors(solver, "its own", tuple(nfes), best, reference)


def errors_on_best_grid(
    draw: Draw,
    truth: Tensor | None,
    solver: str,
    nfes: Sequence[int],
    grids: Sequence[str],
    longest: int | None = None,
    **options: Any,
) -> SolverErrors:
    """Those on the grid with the smallest geometric mean; a grid that does not fit the solver is passed over.

    Raises:
        ValueError: the solver runs on none of the grids (the last reason is told).
    """
    found: list[SolverErrors] = []
    reason = None
    for grid in grids:
        try:
            if truth is None or SOLVERS[solver].stochastic:
                found.append(stochastic_errors(draw, solver, nfes, grid, longest, **options))
            else:
                found.append(flow_errors(draw, truth, solver, nfes, grid, **options))
        except ValueError as error:
            reason = error
    if not found:
        raise ValueError(f"solver {solver!r} runs on none of the grids {list(grids)}: {reason}") from reason
    return min(found, key=lambda errors: errors.score)
