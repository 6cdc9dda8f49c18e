"""The rows of a table where the states that they led to are known: their means, under whichever weights.

    mean_k  = row_k(state before, network(x_k), no noise)
    state   : its input is x_{k+1} as it was seen, its anchor moves by s_k (x_{k+1} - mean_k), its outputs are these weights'

so outputs of the past, which the next means read, are part of the state, and gradients go through them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from fewstep.samplers.rollouts.noisy_rows import NoisyRows, needed
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.ownership import require_fresh
from fewstep.samplers.run.step import State, Step

Shares = Callable[[int, Tensor], Any]


def expected(step: Step, state: State, output: Tensor) -> State:
    """The state after a row that draws nothing."""
    nothing = torch.zeros((), dtype=state.input.dtype, device=state.input.device)
    return step.__call__(state, output, [nothing] * len(step.draws))


def shown(step: Step, mean: State, x: Tensor, share: Any) -> State:
    """The state after a row whose input turned out to be x, given the one without noise."""
    if step.carry == "same":
        carry = x
    elif step.carry == "keep":
        carry = mean.carry
    else:
        carry = mean.carry + share * (x - mean.input)
    return State(carry, x, mean.history, mean.versions)


def share_of(noisy: NoisyRows, k: int, like: Tensor) -> Any:
    """s_k beside a state: a number, or one for every element."""
    s = noisy.shares[k]
    return float(s) if s.ndim == 0 else torch.from_numpy(s).to(like)


@dataclass(frozen=True, eq=False)
class Known:
    """A run whose states are known. dtype: what the network is shown. given: whether states after rows without noise are
    taken as they were, too; else these rows are played, with gradients through them."""

    steps: Sequence[Step]
    noisy: NoisyRows
    states: Sequence[Tensor]
    dtype: torch.dtype
    given: bool

    def means(self, denoiser: Denoiser, rows: Collection[int]) -> Iterator[tuple[int, Tensor]]:
        """(k, mean of the state after row k) of the rows asked for, each as soon as it is known: one network call a row."""
        table = self.steps[0].tableau
        assert table is not None
        asked = needed(table, self.noisy, rows, self.given)
        state = State(self.states[0], self.states[0])
        for step in self.steps[: max(rows) + 1]:
            k, x = step.index, state.input
            output = called(denoiser, x.to(self.dtype), step) if k in asked else torch.zeros_like(x[:1]).expand_as(x)
            require_fresh(output, state.history)
            mean = expected(step, state, output)
            if k in rows:
                yield k, mean.input
            if k in self.noisy.rows or self.given:
                state = shown(step, mean, self.states[k + 1], share_of(self.noisy, k, x))
            else:
                state = mean


def called(denoiser: Denoiser, x: Tensor, step: Step) -> Tensor:
    """The network's output for a row; where gradients are on, its activations are made again on the way back.

    Raises:
        ValueError: a network that answers twice differently.
    """
    denoiser.prepare(x)  # which may draw, and is no part of the call that is made again
    before = _generators(x.device)
    if torch.is_grad_enabled():
        with set_checkpoint_early_stop(False):  # stopping in the middle of a suspended pipeline would end it
            output: Tensor = checkpoint(Repeated(denoiser, step), x, use_reentrant=False)
    else:
        output = denoiser.call(x, step.model_time, step)
    if not all(map(torch.equal, before, _generators(x.device))):
        with torch.no_grad():
            again = denoiser.call(x, step.model_time, step)
        if not torch.equal(again, output.detach()):
            raise ValueError(
                f"the network answers differently each time (row {step.index}): dropout is on, or it draws numbers of its own, "
                "so that two log-probabilities are of two networks. Call .eval() on it, for the rollout and for the replay"
            )
    return output


class Repeated:
    """The call of a row, made once for its output and again on the way back, which must find the same network."""

    def __init__(self, denoiser: Denoiser, step: Step):
        self.denoiser, self.step = denoiser, step
        self.first: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The output, compared with the first one."""
        output = self.denoiser.call(x, self.step.model_time, self.step)
        now = output.detach()
        if self.first is None:
            self.first = now
        elif (now - self.first).norm() > 32 * torch.finfo(now.dtype).eps * self.first.norm():
            raise ValueError(
                f"the network has changed between log_prob() and backward() (row {self.step.index}): its weights moved, or "
                "an adapter or dropout switched, so that its gradient would be of another one. Call backward() first"
            )
        return output


def _generators(device: torch.device) -> list[Tensor]:
    """States of torch's own generators, of the CPU and of the device."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states
