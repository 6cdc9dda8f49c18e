"""AdvDiff: samples of the class that a model is asked for, which a classifier takes for another. For tests of robustness."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.optimise.noise_space import NoiseSpace, ends_of, on_shell, shell_of
from fewstep.checks import positive, whole
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.guided import Call, Guided
from fewstep.samplers.run.per_sample import beside, wide
from fewstep.samplers.sampling.loop import sample
from fewstep.samplers.sampling.watching import Progress


@dataclass(frozen=True, eq=False)
class Attacked:
    """x_T, x0: (B, *shape), of the first try that the classifier took for the target, else of the last. success: (B,) bool.
    tries: (B,) how many it took. nfe: network calls of the whole run."""

    x_T: Tensor
    x0: Tensor
    success: Tensor
    tries: Tensor
    nfe: int


@method("adv_diff", kind="noise")
def adv_diff(
    denoiser: Denoiser,
    x_T: Tensor,
    classifier: Callable[[Tensor], Tensor],
    target: Tensor,
    solver: Any = "ddim",
    nfe: int | None = None,
    grid: Any = None,
    *,
    scale: float = 1.0,
    last: float = 0.2,
    noise_scale: float = 0.5,
    tries: int = 10,
    exact: bool = False,
    shell: float | None = 0.05,
    seeds: Sequence[int] | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
    **solver_options: Any,
) -> Attacked:
    """Samples that a classifier takes for `target`, by guidance of the last rows and of the noise: to test its robustness only.

        after each row of the last 20 %:    x <- x + scale grad_x log p(target | x)
        after a try that failed:            z <- z + noise_scale grad_x0 log p(target | x0),    z = x_T in units of noise

        other = classifier(x0).scatter(1, labels[:, None], -torch.inf).argmax(1)      # the runner-up, a target within reach
        found = guidance.adv_diff(denoiser_of(labels), x_T, classifier, other);       found.x0[found.success]

    exact=False is the published form: the classifier looks at the noisy state itself, the gradient at x0 stands for that at
    x_T, and the network is never differentiated. The shift is outside of what a multistep solver remembers: its earlier
    outputs stay those of the path that was left, so that single-step solvers are the ones for it. exact=True makes the same
    shift, of the row's start, one of predicted x0 (see `Guided`), which every solver of one call a step takes with its order,
    and climbs d log p(target | x0) / dz through all rows, guidance included.

    Args:
        denoiser: asked for the true class. x_T: (B, *shape). classifier: x -> logits (B, classes), differentiable (twice if
            exact), for a pipeline on its decoded latents. target: (B,) classes. scale, noise_scale: published with 0.75 to 2
            and 0.5 to 1. last: share of the rows. tries: samplings at most. shell: as in `d_flow`, of z after a move.
            seeds: one a sample, of what a stochastic solver draws, the same in every try. Others as in `doodl`; nfe is 20.

    Cost: nfe network calls a try, and for all but the last of exact tries as many again with their vector-Jacobian products.
    A try of the batch is one for all; those that succeeded are kept. On the embedded digits at equal evaluations the published
    form succeeds more often than the exact one (tests/benchmarks/adversarial.py).

    Raises: ValueError for bad arguments, before the first call.

    Reference: AdvDiff: Generating Unrestricted Adversarial Examples using Diffusion Models; Dai, Liang, Xiao; 2023;
    arXiv:2307.12499.
    """
    goal = Goal(classifier, target, x_T)
    ends = ends_of(solver, nfe, grid, t_start, t_end, 20)
    space = NoiseSpace(denoiser, x_T, goal.loss, solver, ends, solver_options, prior=0.0, seeds=seeds, method=None)
    scale, climb = positive("scale", scale, zero=True), positive("noise_scale", noise_scale, zero=True)
    if positive("last", last, zero=True) > 1:
        raise ValueError(f"`last` is a share of the rows, from 0 to 1; got {last!r}")
    first = space.table.nfe - math.ceil(last * space.table.nfe)
    if exact and any(calls != 1 for calls in space.table.groups):
        raise ValueError(
            f"{space.table.name} calls the network within its steps: take ddim or dpmpp_2m, or exact=False"
        )
    if exact:
        space.denoiser = Guided(denoiser, lambda call: goal.shift(call, scale, first))
    spent, tries, shell = denoiser.nfe, whole("tries", tries), shell_of(shell)
    z = kept_z = kept_x0 = space.start
    success, count = torch.zeros_like(goal.target, dtype=torch.bool), torch.zeros_like(goal.target)
    for i in range(tries):
        last_one = i == tries - 1
        if exact:
            x0, _, g = space.evaluate(z, i, gradient=not last_one)
        else:
            x0 = _published(space, z, goal, scale, first)
            g = -goal.climb(x0, graph=False).to(z)
        trying = beside(~success, z)
        kept_z, kept_x0 = torch.where(trying, z, kept_z), torch.where(trying, x0.to(kept_x0), kept_x0)
        count = count + ~success
        success = success | goal.reached(x0)
        if last_one or bool(success.all()):
            break
        z = z - climb * g
        z = z if shell is None else on_shell(z, shell)
    return Attacked((space.std * kept_z).to(x_T.dtype), kept_x0.to(x_T.dtype), success, count, denoiser.nfe - spent)


def _published(space: NoiseSpace, z: Tensor, goal: Goal, scale: float, first: int) -> Tensor:
    """A sample whose state is shifted after each of the last rows."""

    def hook(seen: Progress) -> Tensor | None:
        if seen.index < first or scale == 0:
            return None
        return seen.x + scale * goal.climb(seen.x.to(space.dtype), graph=False).to(seen.x)

    x_T = (space.std * z).to(space.dtype)
    with torch.no_grad():
        x0: Tensor = sample(space.denoiser, x_T, space.table, noise_seeds=space.seeds, hook=hook)
    return x0


class Goal:
    """log p(target | x) of a classifier."""

    def __init__(self, classifier: Callable[[Tensor], Tensor], target: Any, x: Any):
        if not callable(classifier):
            raise ValueError(
                f"`classifier` must be a function x -> logits (B, classes); got {type(classifier).__name__}"
            )
        size = len(x) if isinstance(x, Tensor) and x.ndim else 0
        if not isinstance(target, Tensor) or target.shape != (size,) or target.dtype not in (torch.int64, torch.int32):
            got = f"{target.dtype}, {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
            raise ValueError(f"`target` must be one whole class a sample, an int64 tensor ({size},); got {got}")
        self.classifier, self.target = classifier, target.long().to(x.device)

    def logits(self, x: Tensor) -> Tensor:
        found = self.classifier(x)
        if (
            not isinstance(found, Tensor)
            or found.ndim != 2
            or len(found) != len(x)
            or found.shape[1] <= self.target.max()
        ):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"`classifier` must return logits ({len(x)}, classes) for classes up to {int(self.target.max())}; got {got}"
            )
        return found

    def log_p(self, x: Tensor) -> Tensor:
        """(B,)."""
        return wide(self.logits(x)).log_softmax(1).gather(1, self.target[:, None])[:, 0]

    def loss(self, x0: Tensor) -> Tensor:
        """-log p, (B,)."""
        return -self.log_p(x0)

    def reached(self, x: Tensor) -> Tensor:
        """(B,) bool: whether the classifier says the target."""
        with torch.no_grad():
            return self.logits(x).argmax(1) == self.target

    def climb(self, x: Tensor, graph: bool) -> Tensor:
        """The gradient of log p, of x's shape; graph: differentiable in x."""
        with torch.enable_grad():
            x = x if graph and x.requires_grad else x.detach().requires_grad_()
            (g,) = torch.autograd.grad(self.log_p(x).sum(), x, create_graph=graph)
        return g

    def shift(self, call: Call, scale: float, first: int) -> Tensor:
        """What moves the next state by scale times the gradient at this one, as a shift of predicted x0."""
        if call.step.index < first or scale == 0:
            return torch.zeros_like(call.x0)
        return (scale / call.weight) * self.climb(call.x, call.outside).to(call.x0)
