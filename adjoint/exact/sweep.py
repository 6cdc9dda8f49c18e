"""The exact discrete adjoint of a table: one way back over its rows, whatever the solver.

With g the gradient to the state (carry, input, outputs of the past) after row k, and x its network input,

    g_before, g_z, g_leaves = g . d row_k(state, network(x, tau_k), z) / d (state, z, leaves),      k = last .. first

A row is linear in all registers but its input, so that its input is all that must be known of the state; the gradients to
outputs of the past wait in g until their own row is reached. What differs between the methods is only how inputs are had
again (`kept_states.py`, `undone_states.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.exact.kept_states import Recall
from fewstep.adjoint.exact.leaves import check_used
from fewstep.adjoint.exact.rows import Rows
from fewstep.samplers.run.step import State


@dataclass(frozen=True, eq=False)
class Run:
    """What the sweep goes over. leaves: tensors that the rows close over. accumulate: add their gradients to .grad as they
    come, instead of returning them at the end. places: of each row's noises in z, where z is given. whole: whether these are
    all rows of the table."""

    rows: Rows
    recall: Recall
    leaves: tuple[Tensor, ...]
    versions: tuple[int, ...]
    accumulate: bool = False
    places: tuple[tuple[int, ...], ...] = ()
    whole: bool = True


def swept(run: Run, state: State, z: Tensor | None, played: tuple[Tensor, Sequence[Tensor]]) -> Tensor:
    """The sample that the rows lead to from a state, with the sweep for its gradient.

    played: the sample, and what was kept on the way: the leaves are known when all rows have been played, not before.
    """
    found: Tensor = _Sweep.apply(run, played, state.carry, state.input, z, *run.leaves)  # type: ignore[no-untyped-call]
    return found


class _Sweep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run: Run, played: tuple[Tensor, Sequence[Tensor]], carry: Tensor, x: Tensor, z: Tensor | None,
        *leaves: Tensor,
    ) -> Tensor:  # fmt: skip
        end, kept = played
        ctx.run, ctx.z = run, z
        ctx.save_for_backward(*kept)
        return end.clone() if end is x else end

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Any, ...]:
        run: Run = ctx.run
        check_repeatable(run.leaves, run.versions)
        wants_noise = ctx.needs_input_grad[4]
        dz = torch.zeros_like(ctx.z) if wants_noise else None
        totals: list[Tensor | None] = [None] * len(run.leaves)
        g = State(None, gradient[0])  # type: ignore[arg-type]
        for k, before in run.recall.backward(run.rows, ctx.saved_tensors):
            g, to_noise, to_leaves = run.rows.pull(k, before, g, run.leaves, wants_noise)
            collect(run.leaves, run.accumulate, totals, to_leaves)
            for place, value in zip(run.places[k] if wants_noise else (), to_noise, strict=True):
                if dz is not None and value is not None:
                    dz[place] = value
        if run.whole:
            check_used("cond", run.leaves, [total is not None for total in totals])
        carry, x = (finite(v) for v in g[:2])
        return (None, None, carry, x, dz, *([None] * len(totals) if run.accumulate else totals))


def check_repeatable(leaves: Sequence[Tensor], versions: Sequence[int]) -> None:
    """ValueError where a gradient with a graph is wanted, or leaves have changed since their versions were noted."""
    if torch.is_grad_enabled():
        raise ValueError('this gradient has no graph of its own: for second derivatives sample with method="direct"')
    if any(t._version != v for t, v in zip(leaves, versions, strict=True)):
        raise ValueError(
            "a tensor that the network uses was changed in place between sampling and backward(): the calls cannot be "
            "made again as they were. Call backward() first, then the optimiser"
        )


def collect(
    leaves: Sequence[Tensor],
    accumulate: bool,
    totals: list[Tensor | None],
    found: Sequence[Tensor | None],
    weight: float = 1.0,
) -> None:
    """Adds a call's gradients, times a weight, to those of the leaves: to their .grad (accumulate), or to the totals."""
    for i, (leaf, value) in enumerate(zip(leaves, found, strict=True)):
        if value is None:
            continue
        total = leaf.grad if accumulate else totals[i]
        total = value * weight if total is None else total.add_(value, alpha=weight)
        totals[i] = total
        if accumulate:
            leaf.grad = total


def finite(gradient: Tensor | None) -> Tensor | None:
    """The gradient itself; NaN never travels silently."""
    if gradient is not None and not bool(torch.isfinite(gradient).all()):
        raise ValueError(
            "the gradient of the sample is not finite: check the loss at this sample, or let the network compute in a wider "
            "dtype (bfloat16 or float32 instead of float16)"
        )
    return gradient
