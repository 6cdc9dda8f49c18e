"""Training noise that may move a little: to where a table with few evaluations can agree with the teacher.

A sample whose x_T the sampler takes elsewhere than the teacher does has a gradient that no table can follow; within a small
ball around x_T there is often a start from which it can.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.samplers.learned.descent.objectives import FAINT
from fewstep.samplers.learned.problem.problem import Part


class MovingNoise:
    """Displacements of x_T, by seed, of at most `radius`; rate: how far a gradient moves it."""

    def __init__(self, radius: float, rate: float) -> None:
        self.radius, self.rate = radius, rate
        self.moves: dict[str, Tensor] = {}

    def start(self, part: Part) -> Tensor:
        """x_T of a batch, displaced, and with a gradient where it may move."""
        if not self.radius:
            return part.x_T
        still = torch.zeros_like(part.x_T[0])
        return (part.x_T + torch.stack([self.moves.get(str(seed), still) for seed in part.seeds])).requires_grad_()

    @torch.no_grad()
    def step(self, part: Part, gradient: Tensor, errors: Callable[[Tensor], Tensor]) -> None:
        """One step of each x_T in its ball, kept only where the error (B,) of its sample falls: errors(x_T)."""
        old = self.start(part) - part.x_T
        new = (old - self.rate * len(part.seeds) * gradient).flatten(1)
        norm = new.norm(dim=1, keepdim=True).clamp_min(FAINT)
        new = (new * (self.radius / norm).clamp_max(1.0)).view_as(old)
        before, after = (errors(part.x_T + move) for move in (old, new))
        for i, seed in enumerate(part.seeds):
            if after[i] < before[i]:
                self.moves[str(seed)] = new[i].clone()
