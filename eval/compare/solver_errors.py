"""The error of one solver over network evaluations: what `fewstep compare` has a line of, and how each kind of solver is run.

    error of image i at n evaluations = sqrt( mean over its entries of (x0_n - x0_reference)^2 )

The reference of solvers of the probability flow is one long run for all. A stochastic solver goes elsewhere: its reference
is its own run of LONGER times the evaluations on the same Brownian paths. Solvers that choose their steps are run at a
ladder of tolerances; an nfe has the best run that spent no more on average.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, log
from typing import Any

import torch
from torch import Tensor

from fewstep.eval.compare.measures import image_errors
from fewstep.samplers.building.solver_entry import SOLVERS

# Multiples of a driver's own tolerances, and how much longer than the last nfe a stochastic reference is.
LADDER = (64.0, 16.0, 4.0, 1.0, 0.25, 0.0625)
LONGER = 8


@dataclass(frozen=True)
class SolverErrors:
    """One solver on one grid: at each nfe, the mean and the worst error of the images, and the images and reference themselves.

    Errors are infinite where an adaptive solver has no run that cheap.
    """

    solver: str
    grid: str
    nfes: tuple[int, ...]
    rmse: tuple[float, ...]
    worst: tuple[float, ...]
    samples: tuple[Tensor, ...]
    reference: Tensor

    @property
    def score(self) -> float:
        """Geometric mean of the errors over all nfe: what the best grid of a solver is chosen by."""
        finite = [log(max(e, 1e-30)) for e in self.rmse if isfinite(e)]
        return exp(sum(finite) / len(finite)) if finite else inf

    def over(self, nfes: Sequence[int], solver: str) -> "SolverErrors":
        """The same under another name over more nfe than it has runs for: errors and images are infinite there."""
        at = {n: k for k, n in enumerate(self.nfes)}
        blank = torch.full_like(self.reference, inf)
        return SolverErrors(
            solver,
            self.grid,
            tuple(nfes),
            tuple(self.rmse[at[n]] if n in at else inf for n in nfes),
            tuple(self.worst[at[n]] if n in at else inf for n in nfes),
            tuple(self.samples[at[n]] if n in at else blank for n in nfes),
            self.reference,
        )


def longer(nfes: Sequence[int]) -> int:
    """Evaluations of the run that a stochastic solver is compared with."""
    return LONGER * max(nfes)


def errors_to(truth: Tensor, solver: str, grid: str, nfes: Sequence[int], samples: Sequence[Tensor]) -> SolverErrors:
    """Of samples (B, *shape) at every nfe against those of the reference."""
    errors = [image_errors(x0, truth) for x0 in samples]
    return SolverErrors(
        solver,
        grid,
        tuple(nfes),
        tuple(float(e.mean()) for e in errors),
        tuple(float(e.max()) for e in errors),
        tuple(x0.cpu() for x0 in samples),
        truth.cpu(),
    )


def flow_errors(
    draw: Callable[..., Tensor], truth: Tensor, solver: str, nfes: Sequence[int], grid: str, **options: Any
) -> SolverErrors:
    """`draw(solver=, nfe=, grid=, **options) -> x0` at every nfe, compared with `truth`."""
    return errors_to(truth, solver, grid, nfes, [draw(solver=solver, nfe=n, grid=grid, **options) for n in nfes])


def stochastic_errors(
    draw: Callable[..., Tensor], solver: str, nfes: Sequence[int], grid: str, **options: Any
) -> SolverErrors:
    """The same for a solver with noise, against its own longer run on the same Brownian paths."""
    how = {"solver": solver, "grid": grid, "noise": "brownian", **options}
    drawn = [draw(nfe=n, **how) for n in nfes]
    return errors_to(draw(nfe=longer(nfes), **how), solver, grid, nfes, drawn)


def adaptive_errors(
    draw: Callable[..., tuple[Tensor, float]],
    truth: Tensor | None,
    solver: str,
    nfes: Sequence[int],
    **options: Any,
) -> SolverErrors:
    """A solver that chooses its steps, at a ladder of tolerances. `draw(...) -> (x0, mean nfe)`.

    truth: None takes the solver's own run at a sixteenth of the last tolerances.
    """
    own = {name: value for name, value in SOLVERS[solver].options.items() if name in ("rtol", "atol")}

    def run(factor: float) -> tuple[Tensor, float]:
        return draw(solver=solver, nfe=10**6, **{name: factor * value for name, value in own.items()}, **options)

    runs, last = [], LADDER[-1]
    for factor in LADDER:
        runs.append(run(factor))
        if runs[-1][1] > max(nfes):
            last = factor
            break
    if truth is None:
        truth, _ = run(last / 16)
    reference, blank = truth, torch.full_like(runs[0][0], inf)
    best = []
    for n in nfes:
        fitting = [x0 for x0, spent in runs if spent <= n]
        best.append(min(fitting, key=lambda x0: float(image_errors(x0, reference).mean()), default=blank))
    return errors_to(reference, solver, "its own", nfes, best)


def errors_on_best_grid(
    draw: Callable[..., Tensor],
    truth: Tensor | None,
    solver: str,
    nfes: Sequence[int],
    grids: Sequence[str],
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
                found.append(stochastic_errors(draw, solver, nfes, grid, **options))
            else:
                found.append(flow_errors(draw, truth, solver, nfes, grid, **options))
        except ValueError as error:
            reason = error
    if not found:
        raise ValueError(f"solver {solver!r} runs on none of the grids {list(grids)}: {reason}") from reason
    return min(found, key=lambda errors: errors.score)
