"""The rows of a table as functions that gradients flow through, and what a network call needs to be made again as it was.

    output          = network(input, tau_k)
    state after k   = row_k(state before, output, z_k)      linear in all but the input and the output

so that going back over a row takes its input alone: whatever stands in the other registers, the gradient is the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.exact.leaves import Search, random_state, set_random_state
from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.ownership import require_fresh
from fewstep.samplers.run.step import State

Noises = Callable[[int, Tensor], Sequence[Tensor]]  # row, like -> its z


class Network:
    """A denoiser under the circumstances of the run: dtype, autocast, and random numbers that a call draws once.

    random: whether calls draw random numbers (dropout that is on); `watch` finds out, call by call. The first call of a row
    keeps the generators' states, a later one is made with them. outside: whether its graph goes on to one that was there
    before, and must stay.
    """

    def __init__(self, denoiser: Denoiser, dtype: torch.dtype, device: torch.device):
        self.denoiser, self.dtype, self.device = denoiser, dtype, device
        self.random = self.outside = self.watch = False
        self.states: dict[int, list[Tensor]] = {}
        kind = device.type
        self.autocast: dict[str, Any] = {
            "device_type": kind,
            "enabled": torch.is_autocast_enabled(kind),
            "dtype": torch.get_autocast_dtype(kind),
            "cache_enabled": torch.is_autocast_cache_enabled(),
        }

    def __call__(self, k: int, x: Tensor, tau: Tensor, step: Any = None) -> Tensor:
        """The output of row k's call at x, asked for by `step`."""
        with self._as_before(k):
            return self.denoiser.call(x.to(self.dtype), tau, step)

    @property
    def narrow(self) -> bool:
        """Whether small gradients vanish in the network."""
        return torch.float16 in (self.dtype, self.autocast["dtype"] if self.autocast["enabled"] else self.dtype)

    @contextlib.contextmanager
    def _as_before(self, k: int) -> Iterator[None]:
        now = random_state(self.device) if self.random or self.watch else []
        known = self.states.get(k) if self.random else None
        if known is not None:
            set_random_state(self.device, known)
        try:
            with torch.autocast(**self.autocast):
                yield
        finally:
            if known is not None:
                set_random_state(self.device, now)
            elif now and not all(map(torch.equal, now, random_state(self.device))):
                self.random, self.states[k] = True, now


@dataclass(eq=False)
class Rows:
    """The rows start..stop of a run. steps: (state, output, z) -> state; taus: what the network is shown.

    past: how many outputs each row finds in the history. draws: noises of each row. exact: whether other registers than the
    input may hold anything when a row is gone back over; not so where gradients go to their weights.
    """

    network: Network
    steps: Sequence[Callable[[State, Tensor, Sequence[Tensor]], State]]
    taus: Sequence[Tensor]
    past: Sequence[int]
    draws: Sequence[tuple[Draw, ...]]
    noises: Noises
    linear: bool = True
    search: Search | None = None  # looks at the calls, while the sample is made

    def __len__(self) -> int:
        return len(self.steps)

    def advance(self, k: int, state: State) -> State:
        """The state after row k."""
        if self.search is None:
            output = self.network(k, state.input, self.taus[k], self.steps[k])
        else:
            tau = self.taus[k].detach()  # whose numbers may be free: they are no leaves of the network
            output = self.search.look(lambda x: self.network(k, x, tau, self.steps[k]), state.input)
        require_fresh(output, state.history)
        return self.steps[k](state, output, self.noises(k, state.input))

    def after(self, start: int) -> Rows:
        """The rows from `start` on, numbered from 0."""
        if start == 0:
            return self
        noises: Noises = lambda k, like: self.noises(k + start, like)  # noqa: E731
        steps, taus, past, draws = (part[start:] for part in (self.steps, self.taus, self.past, self.draws))
        return Rows(self.network, steps, taus, past, draws, noises, self.linear)  # type: ignore[arg-type]

    def blank(self, k: int, x: Tensor) -> State:
        """The state before row k as far as going back needs it: its input, and registers without memory."""
        return State(_nothing(x), x, tuple(_nothing(x) for _ in range(self.past[k])))

    def pull(
        self, k: int, before: State, after: State, leaves: Sequence[Tensor], wants_noise: bool
    ) -> tuple[State, list[Tensor | None], list[Tensor | None]]:
        """Gradients of row k: (to the state before, to z, to leaves), from those to the state after; None is zero.

        One network call and its vector-Jacobian product; through half precision with gradients brought to size one.
        """
        state = unflat([_leaf(v) for v in flat(before)])
        x = state.input
        z = self.noises(k, x) if not self.linear else [_nothing(x) for _ in self.draws[k]]
        z = [_leaf(v) for v in z] if wants_noise else list(z)
        with torch.enable_grad():
            output = self.network(k, x, self.taus[k], self.steps[k])
            found = self.steps[k](state, output, z)
        pairs = [(v, g) for v, g in zip(flat(found), flat(after), strict=False) if g is not None and v.requires_grad]
        sources = [*flat(state), *(z if wants_noise else ()), *leaves]
        grads = pulled(self.network, [v for v, _ in pairs], sources, [g for _, g in pairs])
        n, m = 2 + len(state.history), len(z) if wants_noise else 0
        return unflat(grads[:n]), list(grads[n : n + m]), list(grads[n + m :])


def flat(state: State) -> list[Any]:
    """The registers of a state in a row."""
    return [state.carry, state.input, *state.history]


def unflat(values: Sequence[Any]) -> State:
    """The state of registers in a row."""
    return State(values[0], values[1], tuple(values[2:]))


def _nothing(x: Tensor) -> Tensor:
    """Zeros in x's shape that take no memory."""
    return torch.zeros((), dtype=x.dtype, device=x.device).expand_as(x)


def pulled(
    network: Network, values: Sequence[Tensor], sources: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Gradients to the sources from those to the values, which the network made; None where there is no way.

    Through half precision they are brought to size one.
    """
    size = _size(gradients) if network.narrow else 1.0
    given = [g / size for g in gradients]
    found = torch.autograd.grad(values, sources, given, retain_graph=network.outside, allow_unused=True)
    return tuple(g if g is None or not network.narrow else g * size for g in found)


def _size(gradients: Sequence[Tensor]) -> Tensor:
    """The largest absolute value as a power of two, by which division is exact."""
    largest = torch.stack([g.abs().amax() for g in gradients]).amax()
    return torch.where(largest > 0, largest, 1.0).log2().round().exp2()


def _leaf(x: Tensor) -> Tensor:
    """The same values at the root of a new graph."""
    return x.detach().requires_grad_()
