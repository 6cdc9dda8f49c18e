"""Derivatives of what is computed in numpy, by central differences in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fewstep.samplers.schedule.base import Array

STEP = 1e-4  # as a share of the gap to the neighbour


class Compiled(torch.autograd.Function):
    """A numpy function of increasing or decreasing numbers (n,) -> (m,), such as a table's weights of its grid.

    The two ends are held fixed. The error of the derivative is of the order of STEP^2.
    """

    @staticmethod
    def forward(ctx: Any, c: torch.Tensor, function: Callable[[Array], Array]) -> torch.Tensor:
        ctx.c, ctx.function = c.detach().numpy().copy(), function
        return torch.from_numpy(function(ctx.c))

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        g, c = gradient[0].numpy(), ctx.c
        found = np.zeros(len(c))
        for i in range(1, len(c) - 1):
            step = STEP * min(abs(c[i] - c[i - 1]), abs(c[i + 1] - c[i]), 1.0)
            ahead, behind = c.copy(), c.copy()
            ahead[i] += step
            behind[i] -= step
            found[i] = g @ (ctx.function(ahead) - ctx.function(behind)) / (ahead[i] - behind[i])
        return torch.from_numpy(found), None
