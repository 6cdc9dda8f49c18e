"""CFG++ in steps of more than one output, as user interfaces have them: each is a shift of x0 in a row that reads one.

In y = x / alpha and level = sigma / alpha (on flows x and t), a first-order row goes to e^-h y + (1 - e^-h) D', h the fall of
log level down to where noise may take the state up again. With the unconditional u, the guided w = u + scale (c - u), and u- ,
h- of the row before, the published steps are

    dpmpp_2m              w + e^-h (y - u) + (1 - e^-h) (w - u-) h / 2h-
    res_multistep         e^-h (y + w - u) + (1 - e^-h) u + h^2 phi_2(-h) (u - u-) / h-     (first row: as `euler`)
    gradient_estimation   w + e^-h (y - u) - (gamma - 1) (level - level') (d - d-),   d = (y - u) / level
    dpmpp_2s              half: e^-h (y + w - u) + (1 - e^-h) w;  whole, from y: e^-h (y + w - u2) + (1 - e^-h) w2

solved for D' here. In the last, of two calls, u2 is that of the second call; the first one's would be consistent. A row into
sigma = 0 gives w.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from math import log
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor

from fewstep.samplers.coefficients.phi import phi
from fewstep.samplers.guidance.composed_denoiser import At


class Outputs(NamedTuple):
    """What one call found: the state y, unconditional and guided x0, its level, and e^-h of its row."""

    y: Tensor
    u: Tensor
    w: Tensor
    level: float
    ratio: float


Shift = Callable[[Outputs, Outputs], Tensor]  # (this call, the one before) -> D'


def _plain(now: Outputs) -> Tensor:
    """D' of y' = w + e^-h (y - u)."""
    return now.u + (now.w - now.u) / (1 - now.ratio)


def _dpmpp_2m(now: Outputs, before: Outputs) -> Tensor:
    return _plain(now) + (now.w - before.u) * (log(now.ratio) / (2 * log(before.ratio)))


def _res_multistep(now: Outputs, before: Outputs) -> Tensor:
    h, last = -log(now.ratio), -log(before.ratio)
    slope = h * h * phi(2, -h) / last
    return now.u + (now.ratio * (now.w - now.u) + slope * (now.u - before.u)) / (1 - now.ratio)


def _gradient_estimation(gamma: float) -> Shift:
    def shifted(now: Outputs, before: Outputs) -> Tensor:
        older = (now.level / before.level) * (before.y - before.u)
        return _plain(now) - (gamma - 1) * (now.y - now.u - older)

    return shifted


def _half(now: Outputs) -> Tensor:
    return now.w + now.ratio / (1 - now.ratio) * (now.w - now.u)


def _dpmpp_2s(now: Outputs, before: Outputs) -> Tensor:
    return now.w + now.ratio / (1 - now.ratio) * (before.w - now.u)


STEPS: dict[str, Callable[[float], Shift]] = {
    "dpmpp_2m": lambda gamma: _dpmpp_2m,
    "res_multistep": lambda gamma: _res_multistep,
    "gradient_estimation": _gradient_estimation,
    "dpmpp_2s": lambda gamma: _dpmpp_2s,
}


class PublishedSteps:
    """D' of each call of a run by one of STEPS; what a row needs of the one before is kept while the run holds its rows."""

    def __init__(self, name: str, gamma: float) -> None:
        self.name, self.shift = name, STEPS[name](gamma)
        self.kept: WeakKeyDictionary[Any, Outputs] = WeakKeyDictionary()

    def shifted(self, at: At, u: Tensor, w: Tensor) -> Tensor:
        """D' of a call whose unconditional and guided x0 are given.

        Raises:
            ValueError: a row that reads more outputs than its own, or a call that no row of a run makes.
        """
        now = self._outputs(at, u, w)
        step = at.step
        ends = {0, *accumulate(step.tableau.groups)}
        starts, last = step.index in ends, step.index + 1 in ends
        before = self.kept.get(step)
        if step.next is not None and (self.name == "dpmpp_2s") != last:
            self.kept[step.next] = Outputs(now.y.detach(), u.detach(), w.detach(), *now[3:])
        if now.ratio == 0:
            return w
        if self.name == "dpmpp_2s":
            return _half(now) if starts and not last else self.shift(now, before) if before is not None else _plain(now)
        return _plain(now) if before is None or before.ratio == 0 else self.shift(now, before)

    def _outputs(self, at: At, u: Tensor, w: Tensor) -> Outputs:
        step: Any = at.step
        table = getattr(step, "tableau", None)
        if table is None or not hasattr(step, "next"):
            raise ValueError(
                f"cfg_pp(step={self.name!r}) needs the rows of a run, and this call comes from none of them"
            )
        k = step.index
        if table.W[k, 1, 3 : 2 + table.history].any():
            fit = "dpmpp_2s" if self.name == "dpmpp_2s" else "euler"
            raise ValueError(
                f"cfg_pp(step={self.name!r}) brings the memory of its steps itself: play it with solver={fit!r} or "
                f"'{'dpmpp_2s' if fit == 'dpmpp_2s' else fit}_ancestral'; row {k} of {table.name} reads earlier outputs"
            )
        flow = at.inner.schedule.kind == "flow"
        whole = float(table.W[k, 1, :2].sum() + at.weight) if flow else float(table.nodes.alpha[k + 1])
        ratio = max(0.0, 1 - at.weight / whole) if table.nodes.sigma[k + 1] > 0 else 0.0
        alpha = 1.0 if flow else float(at.nodes.alpha[0])
        if alpha == 0:  # all of y is noise: the row forgets it
            return Outputs(u, u, w, 1.0, 0.0)
        return Outputs(at.x.to(u) / alpha, u, w, float(at.nodes.sigma[0]) / alpha, ratio)
