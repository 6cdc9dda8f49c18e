"""Steps of an optimiser, many at once: Picard sweeps over the path of a user's step.

    s_{k+1} = update(s_k, g_k, k),     g_k = drift(s_k, k)

Gradients of a whole window are had together, at the states that the last sweep left, and the optimiser goes over them one
after another, which is cheap. The first state of a window is right, so that each sweep makes at least one step that is final;
what did not move is final too. The result is that of the steps one after another.

Reference: DreamPropeller: Supercharge Text-to-3D Generation with Parallel Sampling, Zhou et al., 2023, arXiv:2311.17082.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import positive, whole

State = Any  # a tensor, or a tuple of tensors whose first is the place and the others what an optimiser remembers


@dataclass(frozen=True, eq=False)
class Swept:
    """state: after all steps. sweeps: calls of drift one after another; drifts: gradients in all of them."""

    state: State
    sweeps: int
    drifts: int


@torch.no_grad()
def picard_steps(
    drift: Callable[[Sequence[State], Sequence[int]], Sequence[Any]],
    update: Callable[[State, Any, int], State],
    start: State,
    steps: int,
    *,
    window: int = 8,
    tolerance: float = 0.01,
) -> Swept:
    """The state after `steps` steps of an optimiser, in fewer rounds of gradients than steps.

        found = guidance.picard_steps(gradients_of_all, lambda theta, g, k: theta - 0.1 * g, theta, 200, window=8)

    Args:
        drift: (states, their numbers) -> a gradient for each, in one call of several times the batch or on several devices. It
            must be a function of state and number: noise by the number of the step, not drawn anew.
        update: (state, gradient, number) -> the next state, new tensors. start: a tensor, or a tuple with what an optimiser
            remembers behind the place. window: steps of a sweep. tolerance: a step is final when a sweep moved it by at most
            this share of the step's own length; 0 gives the steps one after another, to rounding.

    Raises:
        ValueError: counts that are none, a drift that gives another number of gradients, a state that is not finite.
    """
    steps, window = whole("steps", steps), whole("window", window)
    share = positive("tolerance", tolerance, zero=True)
    path, done, sweeps, drifts = [start] * (min(window, steps) + 1), 0, 0, 0
    while done < steps:
        count = min(window, steps - done)
        numbers = range(done, done + count)
        found = list(drift(path[:count], numbers))
        if len(found) != count:
            raise ValueError(f"`drift` must give one gradient a state; got {len(found)} for {count}")
        sweeps, drifts = sweeps + 1, drifts + count
        new = [path[0]]
        for number, gradient in zip(numbers, found, strict=True):
            new.append(update(new[-1], gradient, number))
        if not bool(_place(new[1]).isfinite().all()):
            raise ValueError(f"step {done} leads to a state that is not finite: take shorter steps")
        final = 1 + _still(path, new, count, share)
        done += final
        rest = new[final:]
        path = [*rest, *[rest[-1]] * (min(window, max(steps - done, 0)) + 1 - len(rest))]
    return Swept(path[0], sweeps, drifts)


def _still(path: Sequence[State], new: Sequence[State], count: int, share: float) -> int:
    """How many states after the first have not moved in a sweep, up to the first that has, and the last but one."""
    for k in range(1, count):
        length = (_place(new[k]) - _place(new[k - 1])).norm()
        if not bool((_place(new[k]) - _place(path[k])).norm() <= share * length):
            return k - 1
    return count - 1


def _place(state: State) -> Tensor:
    found = state if isinstance(state, Tensor) else state[0]
    assert isinstance(found, Tensor)
    return found
