"""Scale-time solvers: Runge-Kutta on a path that is scaled and re-timed, as a table with parameters.

With y = x / (alpha + sigma), which moves over rho = sigma / (alpha + sigma) with velocity v = eps - x0 = (y - x0) / rho, a
scale s(r) and a time rho(r), r from 0 to 1, make ybar(r) = s y(rho(r)), and

    dybar/dr = s' y + rho' s v,      s_1 y_1 = s_0 y_0 + h (s'_0 y_0 + rho'_0 s_0 v_0)                       (order 1)
                                     s_m y_m = s_0 y_0 + h/2 (s'_0 y_0 + rho'_0 s_0 v_0),
                                     s_1 y_1 = s_0 y_0 + h (s'_m y_m + rho'_m s_m v_m)                       (order 2)

Each network call has a time, a rate h rho', a scale and a slope h s' of its own: 4 nfe - 1 numbers (the ends of the path and
the first scale stay). The step from the middle starts from y_0, which is a sum of y_m and of x0 at the step's start: every
such solver is a correction of `euler` on the times of its calls, with two outputs in reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.artefact.corrections import widened
from fewstep.samplers.building.compiling import compile_path
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.building.solver_entry import SOLVERS
from fewstep.samplers.grids.coordinate import Coordinate
from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.run.compiled import Compiled
from fewstep.samplers.run.free_row import Coefficients
from fewstep.samplers.schedule.base import Array, Nodes
from fewstep.samplers.schedule.outputs import convert
from fewstep.samplers.table.tableau import Tableau


def weights(rho: Tensor, size: Tensor, rate: Tensor, s: Tensor, slope: Tensor, calls: Sequence[int]) -> Tensor:
    """W (nfe, 2, 4) of the transformed solver in x0, registers (carry, input, m_k, m_{k-1}).

    rho, size = alpha + sigma, s: (nfe + 1,) at the calls and the end. rate = h rho', slope = h s': (nfe,) at the calls.
    calls: 1 or 2 for every step.
    """
    rows, k = [], 0
    pull = rate * s[:-1] / rho[:-1]  # h rho' s v = pull (y - x0)
    none = torch.zeros((), dtype=rho.dtype)
    for n in calls:
        h = 1 / n
        own = s[k] + h * (slope[k] + pull[k])  # of y_k in the first stage
        rows.append((own / s[k + 1], -h * pull[k] / s[k + 1], none))
        if n == 2:
            middle = s[k] * s[k + 1] / own + slope[k + 1] + pull[k + 1]
            rows.append((middle / s[k + 2], -pull[k + 1] / s[k + 2], s[k] * h * pull[k] / own / s[k + 2]))
        k += n
    lines = [torch.stack([none, state / size[k], new, old]) * size[k + 1] for k, (state, new, old) in enumerate(rows)]
    return torch.stack(lines)[:, None].expand(-1, 2, -1)


class Transform(NamedTuple):
    """rho, size = alpha + sigma and scale s (nfe + 1,) at times (nfe + 1,); h rho', h s' (nfe,) of every call; one graph."""

    times: Array
    rho: Tensor
    size: Tensor
    s: Tensor
    rate: Tensor
    slope: Tensor


class ScaleTime:
    """Parameters `grid`, `rate`, `scale`, `slope` (nfe,), zero for the Runge-Kutta method itself, as `Knobs`.

    start: whose path is taken, and on how many calls. order: of the Runge-Kutta method; an odd call left over is a step of
    order 1 at the end. The solver's own grid is kept where each of its steps takes one call.
    """

    def __init__(self, start: Tableau, prediction: Any, order: int = 2) -> None:
        if order not in (1, 2):
            raise ValueError(f"`order` of the Runge-Kutta method must be 1 or 2; got {order!r}")
        if start.stochastic:
            raise ValueError(
                f"{start.name} draws noise; a scale-time solver follows the flow: start from one that does"
            )
        n = start.nfe
        self.calls = (1,) * n if order == 1 else (2,) * (n // 2) + (1,) * (n % 2)
        times = self._nodes(start)
        euler = compile_path(SOLVERS["euler"], start.schedule, times, (1,) * n, None, {})
        self.start, self.prediction = widened(euler, min(2, n)), prediction
        self.places = Knobs(euler, prediction, ("grid",), 1)
        self.parameters = dict(self.places.parameters)
        for name in ("rate", "scale", "slope"):
            self.parameters[name] = torch.zeros(n, dtype=torch.float64, requires_grad=True)

    @property
    def count(self) -> int:
        """4 nfe - 1: 4 N - 1 for N steps of order 1, 8 N - 1 of order 2."""
        return 4 * self.start.nfe - 1

    def _nodes(self, start: Tableau) -> Array:
        """Times of the calls: the steps' ends on the start's grid, halfway in rho between them."""
        axis = Coordinate(start.schedule, float(start.times[0]), float(start.times[-1]))
        ends = boundaries(start)
        if len(ends) <= start.nfe:
            c = np.interp(np.linspace(0, 1, start.nfe + 1), np.linspace(0, 1, len(ends)), axis.c(ends))
            ends = np.concatenate([ends[:1], axis.t(c[1:-1]), ends[-1:]])
        at = start.schedule.nodes(ends)
        rho, k = at.r, 0
        for n in self.calls:
            if n == 2:
                r = 0.5 * (rho[k] + rho[k + 2])
                ends[k + 1] = start.schedule.t_of_lam(np.log1p(-r) - np.log(r))
            k += n
        return np.asarray(ends)

    def _flat(self, c: Array) -> Array:
        """rho and size at the nodes, p, q and network times at the calls, in one row."""
        at = self.start.schedule.nodes(self.places._times(c))
        p, q = convert(self.prediction, self.start.forms, Nodes(*(column[:-1] for column in at)))
        return np.concatenate([at.r, at.S, p, q, self.start.schedule.model_time(at.t[:-1])])

    def coefficients(self) -> Coefficients:
        """What `play` needs, with a graph back to the parameters."""
        turn, p, q, tau = self._graph()
        W = weights(turn.rho, turn.size, turn.rate, turn.s, turn.slope, self.calls)
        if not self.start.nodes.sigma[-1]:  # `euler` reads no state there: carry, the same state, stands in for it
            W = torch.cat([W[:-1], W[-1:, :, [1, 0, 2, 3]]])
        return Coefficients(W[:, :, : self.start.registers], p, q, tau)

    def transform(self) -> Transform:
        """What the parameters make of the path."""
        return self._graph()[0]

    def _graph(self) -> tuple[Transform, Tensor, Tensor, Tensor]:
        """The transform, and p, q, tau (nfe,) of the calls."""
        n, c = self.start.nfe, self.places.coordinates()
        flat: Tensor = Compiled.apply(c, self._flat)  # type: ignore[no-untyped-call]
        rho, size, p, q, tau = flat.split([n + 1, n + 1, n, n, n])
        s = torch.cat([flat.new_ones(1), self.parameters["scale"].exp()])
        first, last = self._spans()
        rate = (rho[last] - rho[first]) * self.parameters["rate"].exp()
        ahead = torch.where(last - first == 2, torch.arange(n) == first, torch.zeros(n, dtype=torch.bool))
        rise = torch.where(ahead, 2 * (s[1:] - s[:-1]), s[last] - s[first])  # h s' of the scales themselves
        times = self.places._times(c.detach().numpy())
        return Transform(times, rho, size, s, rate, rise + self.parameters["slope"]), p, q, tau

    def _spans(self) -> tuple[Tensor, Tensor]:
        """Nodes at which the step of every call begins and ends."""
        ends = np.cumsum((0, *self.calls))
        return torch.from_numpy(np.repeat(ends[:-1], self.calls)), torch.from_numpy(np.repeat(ends[1:], self.calls))

    @torch.no_grad()
    def table(self) -> Tableau:
        """The solver with the parameters where they are; `euler` itself at zero and order 1."""
        plain = not any(bool(values.any()) for values in self.parameters.values())
        if plain and 2 not in self.calls:
            return self.start
        times = self.places._times(self.places.coordinates().numpy())
        moved = compile_path(SOLVERS["euler"], self.start.schedule, times, self.start.groups, None, {})
        W = self.coefficients().W.numpy().copy()
        return replace(widened(moved, self.start.history), W=W, conserves="x0 eps" if plain else "")
