"""What gradients may turn on a table: where it steps, its weights, and the times it shows the network.

    c_i     = c_0 + sum of gaps,  gap = floor + (range - N floor) softmax(log(gap_start - floor) + grid)
    W       = W_base(t(c)) + (W_start - W_base(t_start)) + sum_i coef_i E_i
    tau_k   = model_time(t_k(c)) + (tau_start - model_time) + tanh(tau_k) reach_k

All knobs at zero are the start itself, to the last bit; `mix` turns them along other axes than their own. W_base is whatever
solver the table has, compiled in float64; its derivative by the grid is a central difference of tables, so that every solver
of the registry can be learned on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.artefact.corrections import base_of, on_times, widened
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.grids.coordinate import Coordinate
from fewstep.samplers.learned.parameters.bases import coef_basis, reach, state_basis
from fewstep.samplers.learned.playing.arithmetic import quick
from fewstep.samplers.run.compiled import Compiled
from fewstep.samplers.run.free_row import Coefficients
from fewstep.samplers.schedule.base import Array, Nodes
from fewstep.samplers.schedule.outputs import convert
from fewstep.samplers.table.tableau import Tableau

FLOOR = 1e-3  # smallest gap, as a share of the range in c


class Knobs:
    """Parameters of a table, float64: `grid` (steps,), `coef`, `state` (nfe,), `tau` (nfe,); those named in `free`.

    Args:
        start: table to begin from. prediction: what the network returns. free: of "grid", "coef", "state", "tau".
        window: outputs, counted from the newest, whose weights move. consistent: only so that a constant x0 and eps stay.

    A corrected weight is in units of its row's largest weight at the start.
    """

    def __init__(
        self,
        start: Tableau,
        prediction: Any,
        free: str | Sequence[str] = ("grid", "coef", "tau"),
        window: int = 3,
        consistent: bool = True,
    ) -> None:
        free = (free,) if isinstance(free, str) else free
        for name in free:
            if name not in ("grid", "coef", "state", "tau"):
                raise ValueError(f"`free` names what is learned: grid, coef, state, tau; got {name!r}")
        if start.elementwise:
            raise ValueError(
                f"{start.name}: a table with a weight for every element cannot be corrected; take a scalar one"
            )
        if start.filters is not None:
            raise ValueError(
                f"{start.name}: a table with filters is corrected by method 'filter' alone: let it come last"
            )
        self.start = widened(start, min(max(window, start.history), start.nfe))
        self.prediction, self.consistent = prediction, consistent and "state" not in free
        self.base = widened(base_of(start), self.start.history)
        ends = boundaries(start)
        self.axis = Coordinate(start.schedule, float(ends[0]), float(ends[-1]))
        self._ends, self._c = ends, np.asarray(self.axis.c(ends))
        gaps = np.diff(self._c)
        self._floor = min(FLOOR * (self._c[-1] - self._c[0]), 0.5 * float(gaps.min()))
        self._logits = torch.from_numpy(np.log(gaps - self._floor))
        self._dW = torch.from_numpy(self.start.W - self.base.W)
        self._dtau = torch.from_numpy(start.model_times - self.base.model_times)
        self._E, self._S = coef_basis(self.start, self.base, window, self.consistent), state_basis(self.base)
        self._shown = sorted(float(start.schedule.model_time(t)) for t in ends[[0, -1]])
        self._reach = torch.from_numpy(reach(self.base.model_times, float(start.schedule.model_time(ends[-1]))))
        sizes = {"grid": len(gaps), "coef": len(self._E), "state": start.nfe, "tau": start.nfe}
        names = [n for n in ("grid", "coef", "state", "tau") if n in free and not (n == "grid" and len(gaps) < 2)]
        self.parameters: dict[str, Tensor] = {
            name: torch.zeros(sizes[name], dtype=torch.float64, requires_grad=True) for name in names if sizes[name]
        }

        self._sizes = {name: len(values) for name, values in self.parameters.items()}
        self._mix: Tensor | None = None

    @property
    def size(self) -> int:
        """Numbers in all parameters."""
        return sum(self._sizes.values())

    @property
    def count(self) -> int:
        """Numbers that can be turned freely: softmax knobs have one too many, the first network time is fixed."""
        spare = {"grid": 1, "tau": 1}
        return sum(n - spare.get(name, 0) for name, n in self._sizes.items())

    def mix(self, B: Array) -> None:
        """One group of parameters, `mixed` (size,), in place of all: [grid, coef, ...] = B mixed. All are to be zero."""
        self._mix = torch.from_numpy(np.ascontiguousarray(B))
        self.parameters = {"mixed": torch.zeros(self.size, dtype=torch.float64, requires_grad=True)}

    @property
    def _turned(self) -> dict[str, Tensor]:
        """What each kind is turned by: the parameters, or their mix."""
        if self._mix is None:
            return self.parameters
        pieces = (self._mix @ self.parameters["mixed"]).split(list(self._sizes.values()))
        return dict(zip(self._sizes, pieces, strict=True))

    def coordinates(self) -> Tensor:
        """c of the step boundaries, (steps + 1,)."""
        c = torch.from_numpy(self._c)
        turned = self._turned
        if "grid" not in turned:
            return c
        total = self._c[-1] - self._c[0] - len(self._logits) * self._floor
        gaps = self._floor + total * torch.softmax(self._logits + turned["grid"], 0)
        rest = total * torch.softmax(self._logits, 0) + self._floor
        return c + torch.cat([c[:1] * 0, torch.cumsum(gaps - rest, 0)])  # no change where the knobs are zero

    def _times(self, c: Array) -> Array:
        """Boundaries at coordinates: the start's own where nothing moved, its ends always."""
        times = np.where(c == self._c, self._ends, self.axis.t(c))
        times[[0, -1]] = self._ends[[0, -1]]
        return np.asarray(times)

    def _flat(self, c: Array) -> Array:
        """W, p, q and network times of the base solver on the boundaries at c, in one row."""
        table = widened(quick(self.start, self._times(c)), self.start.history)
        calls = Nodes(*(column[:-1] for column in table.nodes))
        p, q = convert(self.prediction, table.forms, calls)
        return np.concatenate([table.W.ravel(), p, q, table.model_times])

    def coefficients(self) -> Coefficients:
        """What `play` needs, with a graph back to the parameters."""
        c = self.coordinates()
        flat: Tensor = Compiled.apply(c, self._flat)  # type: ignore[no-untyped-call]
        n, size = self.start.nfe, self.start.W.size
        W = flat[:size].view(self.start.W.shape) + self._dW + self._added()
        p, q, tau = flat[size : size + n], flat[size + n : size + 2 * n], flat[size + 2 * n :]
        return Coefficients(W, p, q, self._within(tau + self._dtau + self._shift()))

    def _added(self) -> Tensor:
        """Corrections of W."""
        total, turned = torch.zeros(self.start.W.shape, dtype=torch.float64), self._turned
        for name, basis in (("coef", self._E), ("state", self._S)):
            if name in turned:
                total = total + torch.tensordot(turned[name], basis, 1)
        return total

    def _shift(self) -> Tensor:
        """Corrections of the network times; the first stays."""
        turned = self._turned
        if "tau" not in turned:
            return torch.zeros(self.start.nfe, dtype=torch.float64)
        return torch.tanh(turned["tau"]) * self._reach

    def _within(self, tau: Tensor) -> Tensor:
        """Network times between those of the two ends, unless the start itself shows others."""
        free = torch.from_numpy(self.start.model_times)
        low, high = (torch.full_like(free, t) for t in self._shown)
        return tau.clamp(torch.minimum(low, free), torch.maximum(high, free))

    @torch.no_grad()
    def table(self) -> Tableau:
        """The table with the knobs where they are."""
        if not any(bool(values.any()) for values in self.parameters.values()):
            return self.start
        times = self._times(self.coordinates().numpy())
        base = widened(on_times(self.start, times), self.start.history)
        claims = base.conserves if self.consistent and self.start.conserves else ""
        W = base.W + (self._dW + self._added()).numpy()
        shown = self._within(torch.from_numpy(base.model_times) + self._dtau + self._shift())
        return replace(base, W=W, model_times=shown.numpy(), conserves=claims)

    def values(self) -> dict[str, Tensor]:
        """A copy of the parameters."""
        return {name: value.detach().clone() for name, value in self.parameters.items()}

    @torch.no_grad()
    def set(self, values: dict[str, Tensor]) -> None:
        """Turn the knobs to given values."""
        for name, value in values.items():
            self.parameters[name].copy_(value)
