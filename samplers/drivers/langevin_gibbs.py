"""A Markov chain over (sample, noise level) that stays close to the data, every sample by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep.samplers.drivers.driven_run import Task
from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.run.per_sample import Numbers, column

Classifier = Callable[[Tensor], Tensor]
CHAIN_PATHS = 2**21  # Brownian paths of the chain's noises: none that a table draws from


@dataclass
class Chain:
    """A chain a sample: y, and the number of its level."""

    task: Task
    classifier: Classifier
    rho: Numbers
    step: float
    gibbs: str

    def run(self, y: Tensor, burn_in: int, n_skip: int, spent: int) -> tuple[Tensor, Numbers]:
        """After all moves, of the last n_skip states that of the lowest level: (y, its time (B,))."""
        level = self._classify(y, 0)
        kept, lowest = y, level
        for i in range(burn_in + n_skip):
            y = self._move(y, level, i, spent + i)
            level = self._classify(y, i + 1)
            better = (level < lowest) if i > burn_in else np.ones_like(level, bool)
            kept = torch.where(column(better.astype(float), y) > 0, y, kept)
            lowest = np.where(better, level, lowest)
        return kept, self._time(lowest)

    def _time(self, level: NDArray[np.intp]) -> Numbers:
        t = self.task.schedule.t_of_lam(-np.log(self.rho[level]))
        return np.clip(t, self.task.t_end, self.task.t_start)

    def _move(self, y: Tensor, level: NDArray[np.intp], i: int, spent: int) -> Tensor:
        """One Langevin move at the present levels."""
        task, t, rho = self.task, self._time(level), self.rho[level]
        alpha = column(np.asarray(task.schedule.alpha(t)), y)
        eps = task.predict("eps", y * alpha, t)
        z = task.noise(Draw(i + 1, 0, 0.0, 0.0, CHAIN_PATHS + i + 1), y)
        moved = y - column(self.step / (2 * rho), y) * eps + self.step**0.5 * z
        x = moved * alpha
        seen = task.tell(spent, float(t.max()), x, spent + 1, lambda: y - column(rho, y) * eps)
        return moved if seen is x else seen / alpha

    @torch.no_grad()
    def _classify(self, y: Tensor, i: int) -> NDArray[np.intp]:
        """The level of every y, on the host."""
        logits = self.classifier(y.to(self.task.dtype)).double()
        if self.gibbs == "argmax":
            return logits.argmax(1).cpu().numpy()
        z = self.task.noise(Draw(i, 1, 0.0, 0.0, 2 * CHAIN_PATHS + i), y.new_zeros(len(y), 1)).double()
        passed = logits.softmax(1).cumsum(1) < torch.special.ndtr(z)
        return passed.sum(1).clamp(max=len(self.rho) - 1).cpu().numpy()
