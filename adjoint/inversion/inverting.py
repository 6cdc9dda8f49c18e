"""From an image back to the noise from which an ODE solver leads to it.

Exactly, row by row, where its table has an inverse; else DDIM's implicit steps are solved by iteration.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.adjoint.exact.inverse_rows import Block, blocks
from fewstep.adjoint.exact.rounding_growth import check_growth
from fewstep.adjoint.exact.rows import Network
from fewstep.adjoint.exact.undone_states import predictor
from fewstep.checks import whole
from fewstep.samplers.building.compiling import build
from fewstep.samplers.run.checks import require_finite, validate
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import State
from fewstep.samplers.sampling.asked_table import table_for
from fewstep.samplers.table.tableau import Tableau

LOOSE = 1e-2  # of the state: what iterations may leave open without a warning
ALONE = 0.1  # of the image: what the sample from x_T alone may miss without a warning
PARTNER = 1e-3  # how exactly the step back for the partner is solved; replay does not depend on it


@dataclass(frozen=True, eq=False)
class Inverted:
    """What `invert` found. x_T: (B, *shape) at t_start. state, row: the pair before row `row`, from where `replay` leads back
    to the image to rounding, while x_T alone starts the pair afresh. residual: of iterated steps, relative, else 0.
    `alone` tells what x_T alone leaves open."""

    x_T: Tensor
    tableau: Tableau
    state: State
    row: int
    residual: float

    @torch.no_grad()
    def alone(self, denoiser: Denoiser, x0: Tensor) -> float:
        """How far the sample from x_T alone is from the image, relative: nfe network calls."""
        x = self.x_T.to(self.state.input)
        found = _forward(denoiser, self.tableau, State(x, x), self.x_T.dtype).input
        return float((found - x0.to(found)).norm() / x0.to(found).norm())

    def replay(self, denoiser: Denoiser) -> Tensor:
        """The sample from the pair on, (B, *shape): the image for the denoiser it was inverted with, an edit for another."""
        return _forward(denoiser, self.tableau, self.state, self.x_T.dtype, self.row).input.to(self.x_T.dtype)


def invert(
    denoiser: Denoiser,
    x0: Tensor,
    solver: Any = "bdia",
    nfe: int | None = None,
    grid: Any = None,
    *,
    iterations: int = 20,
    tol: float = 1e-3,
    return_state: bool = False,
    check: bool = True,
    t_start: float | None = None,
    t_end: float | None = None,
    **solver_options: Any,
) -> Any:
    """The x_T from which a solver leads to x0.

        x_T = adjoint.invert(denoiser, image, "bdia", 50);      sample(denoiser, x_T, "bdia", 50)  is close to the image
        found = adjoint.invert(..., return_state=True);         found.replay(denoiser)             is it, to rounding

    Solvers with an exact inverse (bdia, o_belm, alf, reversible_heun, edict, rex) carry a pair of states. An image is only one
    of the two: the other is had by a step back and forth, and then every row is undone. x_T alone starts a pair afresh, which
    brings the image back to the solver's own error, of edict, rex and o_belm not even that in few steps: the sample from x_T
    is drawn once more, and a warning says by how much it misses. For edits by another condition x_T is the cleaner start.
    ddim (and euler) solve each step's equation for the noisier state,

        y_s = y_t + (r_s - r_t) v(x_s, s),     y = x / (alpha + sigma),  r = sigma / (alpha + sigma),  v = eps - x0,

    by at most `iterations` network calls a step, until the last one changes less than `tol` of the state; iterations=1 is plain
    DDIM inversion, with v at (x_t, t).

    Args:
        x0: state at t_end, (B, *shape). nfe, grid, t_start, t_end, options: as in `sample`. check: whether x_T alone, where
            it is asked for, is tried.

    Returns:
        x_T (B, *shape); an `Inverted` with return_state.

    Cost: nfe network calls and a few for the partner, and nfe for the check, which return_state=True and check=False spare;
    for ddim nfe times up to `iterations`, and a device read each.

    Raises:
        ValueError: a solver without inverse, or one that draws noise, whose way back leads from the image to no noise (see
        `encode`); rounding that would grow too far; a result that is not finite. A warning where iterations leave more than
        1 % open, or x_T alone more than 10 %.

    Reference: Null-text Inversion for Editing Real Images; Mokady et al.; 2022; arXiv:2211.09794 (plain inversion).
    """
    validate(denoiser, x0, "end")
    iterations = whole("iterations", iterations, hint="It counts network calls a step")
    if not isinstance(tol, (int, float)) or not tol >= 0:  # infinity too: one iteration
        raise ValueError(f"`tol` must be a number, at least 0; got {tol!r}")
    table = table_for(denoiser, solver, {"nfe": nfe, "grid": grid, "t_start": t_start, "t_end": t_end}, solver_options)
    if table.stochastic or table.schedule.has_mean:
        raise ValueError(
            f"{table.name} draws noise, or reverts to a mean: invert goes back along an ODE solver such as bdia or alf, and "
            "adjoint.encode finds the noises of an SDE solver"
        )
    if table.begins != 1:
        raise ValueError(
            f"{table.name}: this table begins later than x_T, of which it takes the noise alone: it leads from an image to no "
            "x_T. Invert along one that begins at t_max"
        )
    wide = x0.to(torch.float64 if x0.dtype == torch.float64 else torch.float32)
    if _first_order(table):
        x_T, residual = _iterated(denoiser, table, wide, x0.dtype, iterations, tol)
        found = Inverted(x_T.to(x0.dtype), table, State(x_T, x_T), 0, residual)
    else:
        parts = blocks(table)
        check_growth(table, wide.dtype)
        found = _undone(denoiser, table, parts, wide, x0.dtype, iterations, solver_options)
    require_finite(found.x_T, "the inverted state")
    if check and not return_state and found.row:
        _warn_alone(found.alone(denoiser, x0), table)
    return found if return_state else found.x_T


def _warn_alone(gap: float, table: Tableau) -> None:
    if not gap <= ALONE:
        warnings.warn(
            f"{table.name} with {table.nfe} evaluations: the sample from x_T alone misses the image by {gap:.2g} of its norm, "
            "as it starts the pair of states afresh. Take invert(..., return_state=True).replay, which leads back exactly, "
            'more evaluations, or "alf"',
            stacklevel=3,
        )


def _first_order(table: Tableau) -> bool:
    """Whether every row is DDIM's."""
    one_state = table.history == 1 and np.array_equal(table.W[:, 0], table.W[:, 1])
    return bool(one_state) and table.order == 1 and not table.stochastic and not table.constant


def _iterated(
    denoiser: Denoiser, table: Tableau, x: Tensor, dtype: torch.dtype, iterations: int, tol: float
) -> tuple[Tensor, float]:
    """(state at the first node, largest relative residual) of DDIM's steps solved one after another."""
    residual = 0.0
    for k in reversed(range(table.nfe)):
        x, gap = ddim_back(denoiser, table, k, x, dtype, iterations, tol)
        residual = max(residual, gap)
    if residual > LOOSE and iterations > 1:
        warnings.warn(
            f"a step of the inversion is open by {residual:.1%} after {iterations} iterations: take more of them or more "
            "evaluations, less guidance, or a reversible solver such as bdia",
            stacklevel=3,
        )
    return x, residual


def ddim_back(
    denoiser: Denoiser, table: Tableau, k: int, x: Tensor, dtype: torch.dtype, iterations: int, tol: float
) -> tuple[Tensor, float]:
    """(state before row k, what the last iteration changed of it), given the state after it."""
    at = table.nodes
    S, r = at.S, at.r
    y, d, scale = x / float(S[k + 1]), float(r[k] - r[k + 1]), float(S[k])

    def velocity(z: Tensor, j: int) -> Tensor:
        return denoiser.predict("flow", z.to(dtype), float(at.t[j])).to(x.dtype)

    there = bool(at.sigma[k + 1] > 0)
    found = scale * (y + d * (velocity(x, k + 1) if there else velocity(scale * y, k)))
    gap = 0.0
    for _ in range(iterations - 1):
        new = scale * (y + d * velocity(found, k))
        found, gap = new, float(((new - found).norm() / new.norm()).detach())
        if gap <= tol:
            break
    return found, gap


def _undone(
    denoiser: Denoiser, table: Tableau, parts: list[Block], x0: Tensor, dtype: torch.dtype, iterations: int,
    options: dict[str, Any],
) -> Inverted:  # fmt: skip
    """A reversible table backwards, from the image and the partner that it would have."""
    network = Network(denoiser, dtype, x0.device)
    taus = [step.model_time for step in lower(table, denoiser.prediction, x0.device, x0.dtype)]
    predict = predictor(table, denoiser.prediction, network, taus)
    state, pair, row = State(_partner(denoiser, table, x0, dtype, iterations, options), x0), None, 0
    for block in reversed(parts):
        after = state
        state, _ = block.back(after, predict)
        if block.c is None:  # carry is not read by it: before it there is one state, not two
            pair, row = after, block.stop
    return Inverted(state.input.to(dtype), table, state if pair is None else pair, row, 0.0)


def _partner(
    denoiser: Denoiser, table: Tableau, x0: Tensor, dtype: torch.dtype, iterations: int, options: dict[str, Any]
) -> Tensor:
    """The carry that belongs to an image at the end: of the last step, taken once more from DDIM's way back over it."""
    calls = table.groups[-1] if len(table.groups) == 1 else max(table.groups)
    start = float(table.times[table.nfe - table.groups[-1]])
    ends = np.array([start, table.times[-1]])
    direct = build("ddim", table.schedule, 1, ends)
    x, _ = ddim_back(denoiser, direct, 0, x0, dtype, iterations, PARTNER)
    last = build(table.name, table.schedule, calls, ends, **options)
    return _forward(denoiser, last, State(x, x), dtype).carry


def _forward(denoiser: Denoiser, table: Tableau, state: State, dtype: torch.dtype, start: int = 0) -> State:
    """The pair after the rows from `start` on."""
    x = state.input
    for step in lower(table, denoiser.prediction, x.device, x.dtype, pair=True)[start:]:
        state = step(state, denoiser.call(state.input.to(dtype), step.model_time, step))
    return state
