"""An adversary beside the error: a small network that learns to tell samples from data, while the knobs learn not to be told.

    critic:  softplus(D(x0) - D(y)) + (gamma / 2) (|dD(y)/dy|^2 + |dD(x0)/dx0|^2),     y: data,  x0: samples
    knobs:   loss + weight softplus(D(y) - D(x0))

It only steers the descent: tables are still chosen and tested by errors to the reference, so that what it does to them shows.

Reference: Oganov et al., GAS: Improving Discretization of Diffusion ODEs via Generalized Adversarial Solver, 2025, arXiv
2510.17699, with the relative loss of Huang et al., The GAN is dead; long live the GAN!, 2024, arXiv 2501.05441.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from fewstep.checks import positive
from fewstep.samplers.learned.descent.objectives import LOSSES
from fewstep.samplers.learned.problem.problem import Part
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.learned.yardsticks.decoding import decoded
from fewstep.samplers.noise.random_state import random_state_kept

WIDTH, LAYERS = 32, 3  # of the critic: channels of its first layer, twice as many in each further one
RATE, GAMMA = 2e-4, 1.0
FEWEST = 8  # data that anything can be learned from


def data_of(critic: Any) -> Tensor | None:
    """Data (N, *shape) of a critic: tensors and arrays, bytes as -1 to 1; lists of pictures. None for no critic.

    Raises:
        ValueError: no data, too few, or pictures of different sizes.
    """
    if critic is None:
        return None
    if isinstance(critic, bool | int | float | str | bytes | Mapping) or callable(critic):
        raise ValueError(
            f"`critic` is the data that samples are compared with, a tensor (N, *shape) or pictures; got {critic!r:.60}: an "
            "adversary without data learns nothing"
        )
    rows = critic if isinstance(critic, Tensor | np.ndarray) else [_one(row) for row in critic]
    if len(rows) < FEWEST:
        raise ValueError(f"`critic` needs at least {FEWEST} pictures, better thousands; got {len(rows)}")
    if isinstance(rows, list):
        if len(shapes := {tuple(row.shape) for row in rows}) > 1:
            raise ValueError(f"`critic` needs data of one shape; got {', '.join(map(str, sorted(shapes)))}")
        rows = torch.stack(rows)
    found = torch.as_tensor(rows)
    found = found.float() / 127.5 - 1 if found.dtype == torch.uint8 else found.float()
    if not bool(found.isfinite().all()):
        raise ValueError("`critic` holds data that are not finite: leave them out")
    return found


def _one(row: Any) -> Tensor:
    """A tensor, or a picture as bytes (C, H, W)."""
    if isinstance(row, Tensor):
        return row
    array = np.array(row)
    if array.dtype == np.uint8 and array.ndim in (2, 3):  # as pictures have them: rows, columns, channels
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(array)


def require_data(options: Mapping[str, Any]) -> None:
    """ValueError for a critic without data, or a weight that is none."""
    data_of(options.get("critic"))
    positive("adversary", options.get("adversary", 0.1), hint="It weighs the critic against the loss")


class Critic:
    """Objective of a descent: its loss, and how well the critic tells the samples. It learns with each batch it is shown."""

    grows = True  # what it has learned is not kept: a descent with it begins anew after an interruption

    def __init__(self, task: Task, data: Tensor, weight: float, loss: str) -> None:
        self.task, self.weight, self.rule = task, weight, LOSSES[loss]
        part = task.problem.part(task.train[:1])
        with torch.no_grad():
            shape = tuple(decoded(task.problem, part, part.x_T.float()).shape[1:])
        if tuple(data.shape[1:]) != shape:
            raise ValueError(
                f"`critic` has data of shape {tuple(data.shape[1:])}, and samples are {shape}: scale them to that size"
            )
        self.data = data.to(part.x_T.device)
        with random_state_kept():  # on every device: a seed is given to all of them
            torch.manual_seed(0)
            self.network = discriminator(shape).to(part.x_T.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=RATE, betas=(0.0, 0.99))
        self.order = torch.Generator().manual_seed(0)

    def __call__(self, states: list[Tensor], part: Part, teacher: Teacher, knobs: Any) -> Tensor:
        """The loss of a batch; the critic makes a step of its own first."""
        problem = self.task.problem
        fake = decoded(problem, part, states[-1]).float()
        real = self.data[torch.randint(len(self.data), (len(fake),), generator=self.order).to(self.data.device)]
        self._learn(fake.detach(), real)
        told = softplus(self.network(real) - self.network(fake)).double().mean()
        return self.rule(self.task.loss.of(problem, part, states[-1], teacher.end(part))) + self.weight * told

    def _learn(self, fake: Tensor, real: Tensor) -> None:
        seen = [fake.requires_grad_(), real.clone().requires_grad_()]
        a, b = (self.network(x) for x in seen)
        slopes = torch.autograd.grad([a.sum(), b.sum()], seen, create_graph=True)
        rough = sum(slope.flatten(1).square().sum(1).mean() for slope in slopes)
        loss = softplus(a - b).mean() + 0.5 * GAMMA * rough
        weights = list(self.network.parameters())
        for weight, slope in zip(weights, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
            weight.grad = slope
        self.optimizer.step()


def discriminator(shape: tuple[int, ...]) -> nn.Module:
    """(B, *shape) -> (B, 1): convolutions for images, layers on all numbers for anything else."""
    layers: list[nn.Module] = []
    if len(shape) == 3:
        before = shape[0]
        for width in (WIDTH << k for k in range(LAYERS)):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.SiLU()]
            before = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1))
    before, layers = int(np.prod(shape)), [nn.Flatten()]
    for _ in range(LAYERS - 1):
        layers += [nn.Linear(before, 2 * WIDTH), nn.SiLU()]
        before = 2 * WIDTH
    return nn.Sequential(*layers, nn.Linear(before, 1))
