"""A bound on the error of a scale-time solver, from what each of its steps does wrong on the true path.

Along y = x / (alpha + sigma), rho = sigma / (alpha + sigma), the flow is dy/drho = v = eps - x0. With d_i the error of step i
alone, begun on the path, and L_i how far that step can carry two states apart,

    e_i <= L_i e_{i-1} + d_i,    so    e_N <= sum_i M_i d_i,    M_i = L_{i+1} ... L_N,

    L_i = (|s_0 + h s'_0| + h |rho'_0| s_0 L) / s_1                                                (order 1)
    L_m = (|s_0 + h/2 s'_0| + h/2 |rho'_0| s_0 L) / s_m,
    L_i = (s_0 + (h |s'_m| + h |rho'_m| s_m L) L_m) / s_1                                          (order 2)

where v is L-Lipschitz in y. The steps need no knowledge of one another, nor gradients through more than their own calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.samplers.learned.playing.differentiable import call
from fewstep.samplers.learned.problem.problem import Part
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.problem.trajectory import Trajectory
from fewstep.samplers.run.free_row import Coefficients, FreeRow
from fewstep.samplers.run.step import State
from fewstep.samplers.table.tableau import Tableau

FAINT = 1e-30  # mean square that counts as none, where a root has no derivative


def factors(rate: Tensor, s: Tensor, slope: Tensor, calls: Sequence[int], lipschitz: float) -> Tensor:
    """L_i, (steps,). rate = h rho', slope = h s': (nfe,) at the calls; s: (nfe + 1,); calls: 1 or 2 for every step."""
    found, k = [], 0
    pull = rate.abs() * s[:-1] * lipschitz
    for n in calls:
        first = (s[k] + slope[k] / n).abs() + pull[k] / n
        if n == 2:
            first = s[k] + (slope[k + 1].abs() + pull[k + 1]) * first / s[k + 1]
        k += n
        found.append(first / s[k])
    return torch.stack(found)


def amplified(L: Tensor) -> Tensor:
    """M_i = L_{i+1} ... L_N, (steps,)."""
    return torch.cat([L[1:].flip(0).cumprod(0).flip(0), L.new_ones(1)])


class Bound:
    """sum_i M_i d_i of the samples of a part, in units of x0: as player and objective of a descent.

    knobs: ScaleTime. teacher: whose path the steps begin and should end on. lipschitz: L above.
    """

    def __init__(self, knobs: Any, teacher: Teacher, lipschitz: float) -> None:
        self.knobs, self.teacher, self.lipschitz = knobs, teacher, lipschitz

    def play(
        self,
        part: Part,
        layout: Tableau,
        coefficients: Coefficients,
        x: Tensor | None = None,
        remember: bool = False,
        cut: bool = False,
    ) -> list[Tensor]:
        """d of every step, (B,) float64. x, cut: not used, since every step begins on the path."""
        path, turn = self.teacher.path(part), self.knobs.transform()
        ends = [0]
        for n in self.knobs.calls:
            ends.append(ends[-1] + n)
        on_path = [_state(path, float(turn.times[k]), turn.rho[k]) for k in ends]
        numbers = coefficients.beside(on_path[0])
        found = []
        for i, (k, after) in enumerate(zip(ends, ends[1:], strict=False)):
            begun = on_path[i] * turn.size[k]
            state = State(begun, begun)
            for j in range(k, after):
                output = call(part.denoiser, state.input, numbers.tau[j], part.x_T.dtype, remember)
                state = FreeRow(layout, j, numbers)(state, output)
            gap = state.input / turn.size[after] - on_path[i + 1]
            found.append((gap.double().flatten(1).square().mean(1) + FAINT).sqrt())
        return found

    def of(self, errors: list[Tensor]) -> Tensor:
        """The bound of every sample, (B,), from what `play` found."""
        turn = self.knobs.transform()
        M = amplified(factors(turn.rate, turn.s, turn.slope, self.knobs.calls, self.lipschitz))
        return turn.size[-1] * torch.tensordot(M.to(errors[0].device), torch.stack(errors), 1)

    def objective(self, errors: list[Tensor], *_: object) -> Tensor:
        """The mean bound."""
        return self.of(errors).mean()


def _state(path: Trajectory, t: float, rho: Tensor) -> Tensor:
    """y on the path at t, which moves with rho as the flow does."""
    size = float(path.schedule.alpha(t)) + float(path.schedule.sigma(t))
    y = path.at(t) / size
    if not rho.requires_grad:
        return y
    return y + (rho - rho.detach()).to(y.device, y.dtype) * path.flow(t)
