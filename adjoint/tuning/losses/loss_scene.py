"""What a loss is given: some seeds, their samples through the table with a graph to the weights, and what they are to be like.

What the untouched network answers is asked within `scene.untouched()`; weights are exchanged there, not copied into.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.gradient.sampling import sample
from fewstep.adjoint.tuning.losses.data_features import Eyes
from fewstep.samplers.learned.problem.problem import Part, Problem
from fewstep.samplers.learned.yardsticks.decoding import decoded
from fewstep.samplers.run.per_sample import wide
from fewstep.samplers.table.tableau import Tableau


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What does not change from batch to batch.

    params: what is trained. end: of a part, where the teacher's long run ends. data: features of data, (N, d), or None.
    reward: (B, *shape) images -> (B,), or None. untouched: the network of before, until a block ends. method, last: of the
    gradient, see `adjoint.sample`. memo: what losses keep.
    """

    problem: Problem
    table: Tableau
    params: Collection[Tensor]
    end: Callable[[Part], Tensor]
    eyes: Eyes
    data: Tensor | None
    reward: Callable[[Tensor], Tensor] | None
    untouched: Callable[[], AbstractContextManager[None]]
    method: str
    last: int | str | None
    memo: dict[Any, Any]


@dataclass(eq=False)
class Scene:
    """A batch. generator: of everything that a loss draws, the same again after an interruption."""

    around: Surroundings
    part: Part
    generator: torch.Generator

    @property
    def table(self) -> Tableau:
        """What the weights are tuned for."""
        return self.around.table

    @cached_property
    def x0(self) -> Tensor:
        """(B, *shape) samples through the table; their gradient reaches the weights."""
        a = self.around
        a.problem.spent += 2 * len(self.part.seeds) * self.table.nfe
        own: dict[str, Any] = {"params": a.params, "method": a.method, "last": a.last}
        if self.table.stochastic:
            own |= {"noise": "brownian", "noise_seeds": list(self.part.seeds)}
        return sample(self.part.denoiser, self.part.x_T, self.table, check="none", **own)

    @cached_property
    def images(self) -> Tensor:
        """The same, decoded, -1 to 1; samples of a model without a decoder are images."""
        return decoded(self.around.problem, self.part, self.x0)

    @cached_property
    def features(self) -> Tensor:
        """(B, d) of the images."""
        return self.around.eyes(self.images)

    @cached_property
    def truth(self) -> Tensor:
        """(B, *shape) ends of the teacher's long runs from the same noise."""
        return self.around.end(self.part).to(self.part.x_T.device)

    @cached_property
    def eps(self) -> Tensor:
        """(B, *shape) the noise that the samples begin with, of unit variance: (x_T - alpha x0) / sigma with the truth's x0."""
        begin = self.around.problem.schedule.nodes(self.around.problem.t_start)
        return (wide(self.part.x_T) - float(begin.alpha) * wide(self.truth)) / float(begin.sigma)

    def between(self, t: float) -> Tensor:
        """The state at time t on the line of noise and sample, alpha x0 + sigma eps."""
        at = self.around.problem.schedule.nodes(t)
        return float(at.alpha) * wide(self.truth) + float(at.sigma) * self.eps

    def a_time(self) -> float:
        """One of the times at which the table asks the network."""
        row = int(torch.randint(self.table.nfe, (), generator=self.generator))
        return float(self.around.problem.schedule.time_of_model(float(self.table.model_times[row])))

    def ask(self, form: str, x: Tensor, t: float) -> Tensor:
        """The network's answer at (x, t) as "x0", "eps" or, "", as it is; with a graph where gradients are on."""
        self.around.problem.spent += len(self.part.seeds)
        denoiser, x = self.part.denoiser, x.to(self.part.x_T.dtype)
        return denoiser.predict(form, x, t) if form else denoiser(x, t)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples as a guard looks at them: errors (N,) mean squares to the teacher, features (N, d), rewards (N,) or None."""

    errors: Tensor
    features: Tensor | None
    rewards: Tensor | None
    data: Tensor | None
