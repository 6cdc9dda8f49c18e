"""The noise that a sampler starts from as the place of an optimisation: loss, gradient, and the run that asks for them.

    min over x_T of loss(x0(x_T)) + prior penalty(x_T),    gradient by adjoint.sample

x_T is seen in units of noise, z = x_T / s with s its standard deviation (1 for VP and flow, sigma_max for VE and EDM), so
that lengths mean the same on every schedule: noise in d dimensions has |z| near sqrt(d).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.exact.undone_states import Undone
from fewstep.adjoint.gradient.sampling import sample
from fewstep.adjoint.optimise.lbfgs import Search
from fewstep.checks import positive
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.choosing import chosen, is_file
from fewstep.samplers.run.checks import validate, validate_noise
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.per_sample import beside, norm, wide
from fewstep.samplers.sampling.asked_table import learned_table, table_for
from fewstep.samplers.table.tableau import Tableau

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Optimised:
    """The best that was met of every sample. x_T, x0: (B, *shape). losses: (iterations + 1, B), of the start and after every
    step, penalty included; for L-BFGS that is every step tried. nfe: network calls of the whole run."""

    x_T: Tensor
    x0: Tensor
    losses: Tensor
    nfe: int


class NoiseSpace:
    """Loss and gradient over z = x_T / std, of which `hold` makes what is sampled; arguments as those of `doodl`."""

    def __init__(
        self, denoiser: Denoiser, x_T: Tensor, loss: Loss, solver: Any, ends: dict[str, Any], options: dict[str, Any], *,
        prior: float, seeds: Any, method: str | None, hold: Callable[[Tensor], Tensor] | None = None,
    ):  # fmt: skip
        validate(denoiser, x_T, "end")
        if x_T.ndim < 2 or x_T[0].numel() < 2 or not bool(x_T.isfinite().all()):
            raise ValueError(
                f"`x_T` must be (B, *shape), finite, with two numbers a sample at least; got shape {tuple(x_T.shape)}"
            )
        if not callable(loss):
            raise ValueError(f"`loss` must be a function x0 -> (B,); got {type(loss).__name__}")
        validate_noise(x_T, None, seeds)
        self.denoiser, self.loss, self.seeds = denoiser, loss, seeds
        self.prior, self.hold = positive("prior", prior, zero=True), hold
        self.table = table = _table(denoiser, x_T, solver, ends, options)
        if table.schedule.has_mean:
            raise ValueError(
                "a mean-reverting schedule starts from an image, not from noise: differentiate adjoint.sample"
            )
        if table.stochastic and seeds is None:
            raise ValueError(f"{table.name} draws noise, which must be the same in every iteration: give `seeds`")
        self.dtype, self.length = x_T.dtype, math.sqrt(x_T[0].numel())
        self.std = float(table.nodes.sigma[0]) if table.schedule.kind == "ve" else 1.0
        self.start = wide(x_T.detach()) / self.std
        self.method = method or ("reversible" if _undoable(table, denoiser, self.start.dtype) else "checkpoint")

    def held(self, z: Tensor) -> Tensor:
        """z as it is sampled from."""
        return z if self.hold is None else self.hold(z)

    def evaluate(self, z: Tensor, iteration: int, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
        """(x0, losses (B,), gradient) at z; ValueError where they are not finite."""
        with torch.set_grad_enabled(gradient):
            z = z.detach().requires_grad_(gradient)
            start = self.held(z)
            way: dict[str, Any] = {"method": self.method, "params": ()} if gradient else {}
            x_T = (self.std * start).to(self.dtype)
            x0 = sample(self.denoiser, x_T, self.table, noise_seeds=self.seeds, check="none", **way)
            losses = _checked(self.loss(x0), x0, gradient)
            if self.prior:
                losses = losses + self.prior * noise_prior_penalty(start).to(losses)
            wrong = ~(losses.isfinite() & x0.flatten(1).isfinite().all(1))
            if bool(wrong.any()):
                raise ValueError(
                    f"the loss or its sample is not finite in iteration {iteration}, samples "
                    f"{wrong.nonzero().flatten().tolist()}: take shorter steps, or a loss that is finite for every image"
                )
            g = torch.autograd.grad(losses.sum(), z)[0] if gradient else torch.zeros_like(z)
        return x0.detach(), losses.detach(), g

    def run(self, steps: Search, iterations: int, progress: bool) -> Optimised:
        """Goes where `steps` asks for, and keeps the best of every sample."""
        spent, history = self.denoiser.nfe, []
        z = next(steps)
        best_z, best_x0, best = z, z, torch.full((len(z),), torch.inf, device=z.device, dtype=z.dtype)
        for i in _bar(iterations + 1, progress):
            x0, losses, g = self.evaluate(z, i, gradient=i < iterations)
            history.append(losses)
            better = beside(losses < best, z)
            best_z, best_x0 = torch.where(better, z, best_z), torch.where(better, x0, best_x0)
            best = torch.minimum(losses.to(best), best)
            if i < iterations:
                z = steps.send((losses.to(z), g)).detach()
        x_T = (self.std * self.held(best_z)).to(self.dtype)
        return Optimised(x_T, best_x0.to(self.dtype), torch.stack(history), self.denoiser.nfe - spent)


def noise_prior_penalty(x_T: Tensor) -> Tensor:
    """How unlike the length of noise |x_T| is, (B,): the negative log-density of a chi variable, 0 at its least.

        |x|^2 / 2 - (d - 1) log |x| - const,    least at |x| = sqrt(d - 1)

    For a loss to add: x_T (B, *shape) in units of noise, d >= 2 numbers a sample. About (|x| - sqrt(d))^2 near there.

    Reference: ReNO: Enhancing One-step Text-to-Image Models through Reward-based Noise Optimization; Eyring, Karthik, Roth,
    Dosovitskiy, Akata; 2024; arXiv:2406.04312.
    """
    if not isinstance(x_T, Tensor) or not x_T.is_floating_point() or x_T.ndim < 2 or x_T[0].numel() < 2:
        got = tuple(x_T.shape) if isinstance(x_T, Tensor) else type(x_T).__name__
        raise ValueError(f"`x_T` must be a floating tensor (B, *shape) with two numbers a sample at least; got {got}")
    free = x_T[0].numel() - 1
    ratio = wide(x_T).square().flatten(1).sum(1) / free
    return 0.5 * free * (ratio - 1 - ratio.log())


def on_shell(z: Tensor, shell: float) -> Tensor:
    """Every sample with its length within sqrt(d) (1 +- shell)."""
    length = norm(z).clamp(min=torch.finfo(z.dtype).tiny)
    wanted = math.sqrt(z[0].numel())
    return z * (length.clamp((1 - shell) * wanted, (1 + shell) * wanted) / length)


def _table(denoiser: Denoiser, x_T: Tensor, solver: Any, ends: dict[str, Any], options: dict[str, Any]) -> Tableau:
    """What is played in every iteration."""
    plays = chosen(solver)
    if isinstance(plays, Artefact):
        return learned_table(denoiser, plays, x_T, ends["nfe"], None)
    return table_for(denoiser, plays, ends, options)


def _undoable(table: Tableau, denoiser: Denoiser, dtype: torch.dtype) -> bool:
    """Whether states of this dtype can be had again on the way back instead of kept."""
    try:
        Undone(table, denoiser.prediction, dtype)
    except ValueError:
        return False
    return True


def _checked(losses: Any, x0: Tensor, gradient: bool) -> Tensor:
    """(B,), with a graph where one is needed."""
    if not isinstance(losses, Tensor) or losses.shape != x0.shape[:1] or not losses.is_floating_point():
        got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(f"`loss` must return one number a sample, a floating tensor ({len(x0)},); it returned {got}")
    if gradient and not losses.requires_grad:
        raise ValueError("`loss` has no gradient: it detaches x0, rounds it, or does not depend on it")
    return losses


def _bar(n: int, show: bool) -> Any:
    if not show:
        return range(n)
    from tqdm.auto import tqdm

    return tqdm(range(n), desc="optimising noise", unit="run")


def ends_of(solver: Any, nfe: Any, grid: Any, t_start: Any, t_end: Any, usual: int) -> dict[str, Any]:
    """Where the table goes; `usual` evaluations if nothing says how many."""
    nfe = usual if nfe is None and grid is None and isinstance(solver, str) and not is_file(solver) else nfe
    return {"nfe": nfe, "grid": grid, "t_start": t_start, "t_end": t_end}


def shell_of(value: Any) -> float | None:
    """How far |z| may be from sqrt(d), relatively; None for any length."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < 1):
        raise ValueError(f"`shell` must be a share of sqrt(d), from 0 to less than 1, or None; got {value!r}")
    return None if value is None else float(value)
