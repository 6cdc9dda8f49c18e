"""Dynamic compensation: before a step uses the newest output, it moves it along the parabola through the last three.

    m'_i = sum_n l_n(s_i) of (s_i: m_i, s_{i-1}: m'_{i-1}, s_{i-2}: m'_{i-2})  at  s' = s_{i-1} + rho_i (s_i - s_{i-1}),

and m'_i takes the place of m_i in everything that follows. Outputs so far are m' = (1 + Lambda) m, Lambda lower
triangular, so that a table with compensation is a table. rho = 1 is no compensation; the first two stay there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fewstep.samplers.building.resuming import CARRY, INPUT, M
from fewstep.samplers.grids.coordinate import Coordinate
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau


class Compensation:
    """What ratios do to the rows of a table; `time`: "t" or "lam", the coordinate s.

    Raises:
        ValueError: steps of several calls, or a weight for every element.
    """

    def __init__(self, base: Tableau, time: str = "t"):
        if max(base.groups) > 1 or base.elementwise:
            what = "a weight for every element" if base.elementwise else "several calls a step"
            raise ValueError(f"dc extrapolates outputs of earlier steps, one a step; {base.name} has {what}")
        if time not in ("t", "lam"):
            raise ValueError(f'dc: `time` must be "t" or "lam"; got {time!r}')
        t, n = base.times, base.nfe
        s = t if time == "t" else Coordinate(base.schedule, float(t[0]), float(t[-1])).c(t)
        self.base, self._s, self._both = base.widened(n), s, base.both
        self.free = [i for i in range(2, n) if base.forms[i] == base.forms[i - 1] == base.forms[i - 2]]
        self.moved = np.zeros((n, n))  # Lambda, over m_0 ..

    def bends(self, i: int) -> Array:
        """(2, nfe): Lambda_i = d bends[0] + d^2 bends[1] with d = rho_i - 1, given the rows before."""
        q = (self._s[i - 1] - self._s[i - 2]) / (self._s[i] - self._s[i - 1])
        one = np.eye(len(self.moved))
        newest, middle, oldest = one[i], *(one[j] + self.moved[j] for j in (i - 1, i - 2))
        return np.stack(
            [(2 + q) / (1 + q) * newest - (1 + q) / q * middle + oldest / (q * (1 + q)),
             newest / (1 + q) - middle / q + oldest / (q * (1 + q))]
        )  # fmt: skip

    def set(self, i: int, ratio: float) -> None:
        """Compensate output i, after those before it."""
        d = ratio - 1
        self.moved[i] = np.array([d, d * d]) @ self.bends(i)

    def weight(self, k: int) -> float:
        """Of m'_k in input_{k+1}, beside the state: a corrector in the carry line sees the output as it was."""
        W = self.base.W[k]
        return float(W[INPUT, M] if self._both[k] else W[INPUT, M] - self._slope(k) * W[CARRY, M])

    def _slope(self, k: int) -> float:
        """Of the corrected state in the prediction."""
        W = self.base.W[k]
        column = int(np.argmax(np.abs(W[CARRY, :M])))
        return float(W[INPUT, column] / W[CARRY, column]) if W[CARRY, column] else 0.0

    def lines(self, k: int) -> Array:
        """Row k, (2, R), on the outputs as the network gave them."""
        W = self.base.W[k].copy()
        moved = self.moved[k::-1, k::-1]  # of m'_k, m'_{k-1}, ... over m_k, m_{k-1}, ...
        outputs = slice(M, M + k + 1)
        if self._both[k]:
            W[:, outputs] += W[:, outputs] @ moved
            return W
        slope = self._slope(k)
        rest = W[INPUT, outputs] - slope * W[CARRY, outputs]
        carried = W[CARRY, M + 1 : M + k + 1] @ moved[1:]
        W[INPUT, outputs] += slope * carried + rest @ moved
        W[CARRY, outputs] += carried
        return W


def compensated(base: Tableau, ratios: Sequence[float] | Array, time: str = "t") -> Tableau:
    """A table with its newest outputs moved by ratios (nfe,); ones are the table itself, to the last bit.

    Raises:
        ValueError: another number of ratios, one that is not finite, or not 1 for one of the first two.
    """
    found = np.asarray(ratios, float)
    if found.shape != (base.nfe,) or not np.isfinite(found).all() or (found[:2] != 1).any():
        raise ValueError(f"dc: expected {base.nfe} finite ratios, one a step, the first two 1; got {ratios!r}")
    if (found == 1).all():
        return base
    way = Compensation(base, time)
    for i in way.free:
        way.set(i, float(found[i]))
    return replace(way.base, W=np.stack([way.lines(k) for k in range(base.nfe)]))
