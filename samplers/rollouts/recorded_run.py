"""`Trajectory`: the states of one stochastic run, and how likely a network makes each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.rollouts.known_states import Known, expected, share_of, shown
from fewstep.samplers.rollouts.noisy_rows import NoisyRows
from fewstep.samplers.run.checks import validate_place
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import Post, State, Step
from fewstep.samplers.table.tableau import Tableau

Policy = Denoiser | Sequence[Tensor]  # a network, or the means that it gave


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A run of a stochastic table: row k is the Gaussian transition x_{k+1} ~ N(mean_k, c_k^2), given the states before.

        t = adjoint.rollout(denoiser, x_T, "ddpm", 20, noise_seeds=range(8));     reward(t.sample)
        t.log_prob()                     as it was drawn, (B, rows);  t.log_prob(denoiser): under these weights, with gradients

    Attributes:
        tableau: its table. states: (nfe + 1) tensors (B, *shape): the network's inputs, x_T first, and the sample; float32 or
            float64. rows: the rows with noise, one column of `log_prob` each; the others have no density and are stated by
            `str(t)`. deviations: (nfe,) of c, 0 where there is no noise. silent: how rows without noise are replayed.
    """

    tableau: Tableau
    states: tuple[Tensor, ...]
    drawn: tuple[Tensor, ...]  # means of the noisy rows, as they were
    dtype: torch.dtype
    post: Post | None = None
    mu: Tensor | None = None
    silent: str = "played"

    @cached_property
    def noisy(self) -> NoisyRows:
        """The rows with noise, by what the table says."""
        return NoisyRows.of(self.tableau)

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows with noise."""
        return self.noisy.rows

    @property
    def deviations(self) -> np.ndarray:
        """c of every row."""
        return self.noisy.deviations

    @property
    def sample(self) -> Tensor:
        """The sample, in the dtype of x_T."""
        return self.states[-1].to(self.dtype)

    @property
    def noises(self) -> tuple[Tensor | None, ...]:
        """z of every row, (x_{k+1} - mean_k) / c_k; None where there is none."""
        means = dict(zip(self.rows, self.drawn, strict=True))
        return tuple(
            (self.states[k + 1] - means[k]) / self._c(k) if k in means else None for k in range(self.tableau.nfe)
        )

    def means(self, denoiser: Denoiser | None = None, rows: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """Means of the rows (all with noise), as they were or under a network's weights; with gradients to these.

        One network call a row, made again on the way back: the memory of one call. Outputs of the past are those of these
        weights, and where `silent` is "played" so are the states after rows without noise.

        Raises:
            ValueError: a row without noise, another schedule, a network that answers differently each time.
        """
        asked = self._asked(rows)
        if denoiser is None:
            return tuple(self.drawn[self.rows.index(k)] for k in asked)
        found = dict(self._known(denoiser).means(denoiser, set(asked)))
        return tuple(found[k] for k in asked)

    def log_prob(self, policy: Policy | None = None, rows: Sequence[int] | None = None) -> Tensor:
        """log N(x_{k+1}; mean_k, c_k^2) summed over a sample's elements, (B, rows), float64.

        policy: a network, whose weights then get gradients, or the `means` that one gave; None for the one that drew. In
        public code of flow models the mean over elements stands for the sum: divide by `t.size`.

        Precision: the replay repeats the arithmetic of the rollout on the states that were kept (float32 or float64 whatever
        the network's dtype), so under the same weights it is equal to the bit where the network is: same device, same batch.
        """
        columns = []
        for k, mean in self._each(policy, rows):
            z = (self.states[k + 1] - mean) / self._c(k)
            columns.append(-0.5 * _summed(z.square()) - self._volume(k))
        return torch.stack(columns, 1)

    def ratio(self, policy: Policy, rows: Sequence[int] | None = None) -> Tensor:
        """p(states | policy) / p(states | as drawn) of every row, (B, rows)."""
        return (self.log_prob(policy, rows) - self.log_prob(None, rows)).exp()

    def kl(self, policy: Policy, reference: Policy | None = None, rows: Sequence[int] | None = None) -> Tensor:
        """KL(policy || reference) of every row given the states before it, |mean - mean'|^2 / 2 c^2: exact, (B, rows).

        reference: a frozen network, or the means that it gave (with an adapter switched off, say), without gradients; None
        for the weights that drew. Its expectation over runs of `policy`, summed over rows, is that of whole runs.
        """
        asked = self._asked(rows)
        with torch.no_grad():
            other = self.means(reference, asked) if not isinstance(reference, Sequence) else reference
        self._check(other, asked, "reference")
        columns = [
            0.5 * _summed(((mean - there) / self._c(k)).square())
            for (k, mean), there in zip(self._each(policy, asked), other, strict=True)
        ]
        return torch.stack(columns, 1)

    def take(self, index: Any) -> Trajectory:
        """The samples that an index of the batch chooses (a slice, a list, a mask): a minibatch."""
        if isinstance(index, int):
            raise ValueError(
                f"a minibatch is chosen by a slice, a list or a mask; got {index}: [{index}] for one sample"
            )
        mu = None if self.mu is None else self.mu[index]
        return replace(
            self, states=tuple(x[index] for x in self.states), drawn=tuple(x[index] for x in self.drawn), mu=mu
        )

    @property
    def size(self) -> int:
        """Elements of a sample."""
        return self.states[0][0].numel()

    def __str__(self) -> str:
        n, rows = self.tableau.nfe, set(self.rows)
        still = [k for k in range(n) if k not in rows]
        told = f"{self.tableau.name}: {n} rows, {len(rows)} with noise, {len(self.states[0])} samples"
        if still:
            told += f"; rows {', '.join(map(str, still))} have none and no density"
        if n - 1 not in rows:
            told += f": the sample is a function of the state after row {max(rows)}, through which no log_prob sees the weights"
        return told

    def _each(self, policy: Policy | None, rows: Sequence[int] | None) -> Any:
        """(k, mean) of the rows in the order asked for."""
        asked = self._asked(rows)
        if isinstance(policy, Denoiser) and list(asked) == sorted(asked):
            return self._known(policy).means(policy, set(asked))
        means = policy if isinstance(policy, Sequence) else self.means(policy, asked)
        self._check(means, asked, "policy")
        return zip(asked, means, strict=True)

    def _asked(self, rows: Sequence[int] | None) -> tuple[int, ...]:
        """Rows by number, checked."""
        if rows is None:
            return self.rows
        asked = tuple(rows)
        if not asked or len(set(asked)) < len(asked) or not set(asked) <= set(self.rows):
            raise ValueError(f"`rows` must be some of the rows with noise, {self.rows}; got {asked}")
        return asked

    def _check(self, means: Any, rows: tuple[int, ...], name: str) -> None:
        shape = tuple(self.states[0].shape)
        if not all(isinstance(m, Tensor) for m in means):
            raise ValueError(f"`{name}` must be a Denoiser, or the means that one gave; got {type(means).__name__}")
        got = [tuple(m.shape) for m in means]
        if got != [shape] * len(rows):
            raise ValueError(
                f"`{name}` holds means of another table or shape: {len(got)} of {sorted(set(got))}; expected {len(rows)}, "
                f"one a row, of {shape}: trajectory.means(denoiser) gives them"
            )

    def _known(self, denoiser: Denoiser) -> Known:
        """The run, to be replayed by a network."""
        if not isinstance(denoiser, Denoiser):
            raise ValueError(f"`policy` must be a Denoiser, or the means that one gave; got {type(denoiser).__name__}")
        validate_place(self.tableau, denoiser)
        x = self.states[0]
        steps = lower(self.tableau, denoiser.prediction, x.device, x.dtype, self.post, self.mu)
        return Known(steps, self.noisy, self.states, self.dtype, self.silent == "given")

    def _c(self, k: int) -> Any:
        """c of a row beside the states."""
        c = self.deviations[k]
        return float(c) if c.ndim == 0 else torch.from_numpy(c).to(self.states[0])

    def _volume(self, k: int) -> float:
        """sum of log c sqrt(2 pi) over a sample's elements."""
        c = np.broadcast_to(self.deviations[k], self.states[0].shape[1:])
        return float(np.log(c).sum()) + 0.5 * log(2 * pi) * self.size


def _summed(x: Tensor) -> Tensor:
    """The sum over a sample's elements in float64, where the device has it."""
    return x.flatten(1).sum(1, dtype=torch.float32 if x.device.type == "mps" else torch.float64)


class Recorder:
    """Plays rows and keeps what a Trajectory needs."""

    def __init__(self, tableau: Tableau, noisy: NoisyRows, state: State):
        self.tableau, self.noisy = tableau, noisy
        self.states, self.drawn = [state.input], list[Tensor]()
        self.edited: int | None = None  # the first row before which somebody else changed the state

    def advance(self, step: Step, state: State, output: Tensor, noises: Sequence[Tensor]) -> State:
        """The state after a row."""
        if state.input is not self.states[-1] and self.edited is None:
            self.edited = step.index
        mean = expected(step, state, output)
        if step.index in self.noisy.rows:
            x = step.__call__(state, output, noises).input
            self.drawn.append(mean.input)
            after = shown(step, mean, x, share_of(self.noisy, step.index, x))
        else:
            after = mean
        self.states.append(after.input)
        return after

    def finished(
        self, dtype: torch.dtype, post: Post | None, mu: Tensor | None = None, silent: str = "played"
    ) -> Trajectory:
        """The run, when all its rows have been taken."""
        return Trajectory(self.tableau, tuple(self.states), tuple(self.drawn), dtype, post, mu, silent)
