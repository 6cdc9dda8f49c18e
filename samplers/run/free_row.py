"""Rows whose weights are tensors: what gradients to a table's numbers flow through. `lowering.py` makes the fast ones.

m_k            = p_k input + q_k output
[carry, input] = W_k [carry, input, m_k, m_{k-1}, ..., z, const]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.run.denoiser import clock
from fewstep.samplers.run.step import State, spatial
from fewstep.samplers.table.tableau import Tableau


class Coefficients(NamedTuple):
    """W (nfe, 2, R, ...), p and q (nfe,): the output as m; tau (nfe,): what the network is shown; filters of a table that has
    them. float64, one graph."""

    W: Tensor
    p: Tensor
    q: Tensor
    tau: Tensor
    filters: Tensor | None = None

    @property
    def given(self) -> tuple[Tensor, ...]:
        """Those that are there."""
        return tuple(v for v in self if v is not None)

    def beside(self, x: Tensor) -> Coefficients:
        """In the place and precision that a state needs them in."""
        W, p, q = (v.to(x.device, x.dtype) for v in self[:3])
        filters = None if self.filters is None else self.filters.to(x.device, x.dtype)
        return Coefficients(W, p, q, self.tau.to(x.device, clock(x.dtype)), filters)


@dataclass(frozen=True, eq=False)
class FreeRow:
    """Row k of a table with the registers of `layout` and given numbers: (state, output, noises) -> state."""

    layout: Tableau
    k: int
    numbers: Coefficients

    @property
    def target(self) -> Tensor:
        """Where the row leads, in the network's unit: the time of the next call, which may be free."""
        tau = self.numbers.tau
        if self.k + 1 < len(tau) and not self.layout.draws(self.k):
            return tau[self.k + 1]
        return tau.new_tensor(self.layout.target_times[self.k])

    def __call__(self, state: State, output: Tensor, noises: Sequence[Tensor] = ()) -> State:
        """The state after this row, given the network's output at state.input."""
        layout, k, x = self.layout, self.k, state.input
        outputs = (self.numbers.p[k] * x + self.numbers.q[k] * output.to(x.dtype), *state.history)
        first = 2 + layout.history
        slots = [first + draw.slot for draw in layout.draws(k)]
        constants = [torch.ones((), dtype=x.dtype, device=x.device).expand_as(x)] if layout.constant else []
        columns = [0, 1, *range(2, 2 + len(outputs)), *slots, *([layout.registers - 1] * layout.constant)]
        stack = torch.stack([state.carry, x, *outputs, *noises, *constants])
        W = self.numbers.W[k][:, columns]
        lines = torch.tensordot(W, stack, 1) if W.ndim == 2 else (W[:, :, None] * stack).sum(1)
        carry, after = lines.unbind()
        if self.numbers.filters is not None:
            read = (x, *outputs)[: self.numbers.filters.shape[1]]
            added = spatial(self.numbers.filters[k][: len(read)].transpose(0, 1), read)
            both = np.array_equal(layout.W[k, 0], layout.W[k, 1])
            carry, after = carry + added if both else carry, after + added
        return State(carry, after, outputs[: layout.history - 1])
