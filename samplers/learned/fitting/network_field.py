"""The network as a field G(y, lam) = e^-lam eps over y = x / alpha, with derivatives along any direction.

Forward-mode differentiation where the network has it and it tells the truth, else differences of calls.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.learned.problem.problem import Part
from fewstep.samplers.run.denoiser import clock as time_dtype
from fewstep.samplers.schedule.base import Array, Nodes
from fewstep.samplers.schedule.outputs import convert

STEP = {torch.float64: 1e-4}  # of differences, else:
COARSE = 5e-3


class Field:
    """G(y, lam) of a part and its derivatives; `spent` counts network evaluations, a derivative as two.

    low, high: ends of lam; differences stay within.
    """

    def __init__(self, part: Part, low: float, high: float):
        self.part, self.low, self.high, self.spent = part, low, high, 0
        self.h = STEP.get(part.x_T.dtype, COARSE)

    def _place(self, lam: float) -> Array:
        """(alpha, tau, P, Q) with G = P y + Q output."""
        schedule = self.part.denoiser.schedule
        t = float(schedule.t_of_lam(lam))
        nodes = schedule.nodes(np.array([t]))
        p, q = convert(self.part.denoiser.prediction, ["eps"], Nodes(*nodes))
        alpha = float(nodes.alpha[0])
        return np.array([alpha, float(schedule.model_time(t)), exp(-lam) * p[0] * alpha, exp(-lam) * q[0]])

    def _slopes(self, lam: float) -> Array:
        """Derivatives of `_place`."""
        h = STEP[torch.float64]
        ahead, behind = min(lam + h, self.high), max(lam - h, self.low)
        return np.asarray((self._place(ahead) - self._place(behind)) / (ahead - behind))

    def _call(self, x: Tensor, tau: Any) -> Tensor:
        self.spent += len(x)
        if not isinstance(tau, Tensor):
            tau = torch.tensor(tau, dtype=time_dtype(x.dtype), device=x.device)
        return self.part.denoiser.call(x, tau)

    def value(self, y: Tensor, lam: float) -> Tensor:
        """G, in y's shape and dtype."""
        alpha, tau, P, Q = map(float, self._place(lam))
        return P * y + Q * self._call(alpha * y, tau).to(y.dtype)

    def forward(self, y: Tensor, lam: float, dy: Tensor, dlam: float) -> Tensor:
        """The derivative of G along (dy, dlam), by forward-mode differentiation of the network."""
        (alpha, tau, P, Q), (dalpha, dtau, dP, dQ) = self._place(lam), self._slopes(lam) * dlam
        clock = torch.tensor(tau, dtype=time_dtype(y.dtype), device=y.device)
        along = (alpha * dy + dalpha * y, torch.full_like(clock, dtau))
        output, turned, *_ = torch.func.jvp(self._call, (alpha * y, clock), along)
        self.spent += len(y)
        return (dP * y + P * dy + dQ * output + Q * turned).to(y.dtype)

    def difference(self, y: Tensor, lam: float, dy: Tensor, dlam: float) -> Tensor:
        """The same by a difference, central but at the ends of lam; the step is a share of the noisy sample's size."""
        alpha = float(self._place(lam)[0])
        size = (alpha**2 + (alpha * exp(-lam)) ** 2) ** 0.5 / alpha
        h = self.h * min(size / max(float(dy.square().mean().sqrt()), 1e-30), 1 / max(abs(dlam), 1e-30))
        ahead, behind = (float(np.clip(end, self.low, self.high)) for end in (lam + h * dlam, lam - h * dlam))
        a, b = ((ahead - lam) / dlam, (lam - behind) / dlam) if dlam else (h, h)
        return (self.value(y + a * dy, ahead) - self.value(y - b * dy, behind)) / (a + b)


Derivative = Callable[[Field, Tensor, float, Tensor, float], Tensor]


def _derivative(wanted: str, field: Field, y: Tensor, lam: float) -> Derivative:
    """Forward mode where the network has it and it tells the truth, else differences."""
    if wanted == "difference":
        return Field.difference
    along = field.value(y, lam).neg()
    try:
        exact, rough = (of(field, y, lam, along, 1.0) for of in (Field.forward, Field.difference))
        agree = float((exact - rough).norm()) <= 0.1 * float(rough.norm())
    except (RuntimeError, NotImplementedError, TypeError) as error:
        if wanted == "jvp":
            raise ValueError(
                f'ems: the network has no forward-mode derivative ({error}); use derivative="auto"'
            ) from error
        agree = False
    if not agree and wanted == "jvp":
        raise ValueError('ems: the network\'s forward-mode derivative is not that of its values; use derivative="auto"')
    return Field.forward if agree else Field.difference
