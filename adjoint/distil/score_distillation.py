"""Score distillation: a loss for any differentiable image, that pulls it to what a model would draw.

    x_t = alpha x + sigma e,     gradient = w(t) (x - D(x_t, t)) = w(t) (sigma / alpha) (eps(x_t, t) - e)

No gradient goes through the network. The modes differ in e, the noise that an image is seen with (distilled_noise.py), and VSD
in what is subtracted: a second network's answer in the place of x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.adjoint.distil.distilled_noise import MODES, Noises
from fewstep.checks import unknown, whole
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.per_sample import wide

WEIGHTS = ("one", "sigma2", "alpha2")
STUDENTS = ("particles",)


@method("distil", kind="distilling")
def distil(
    denoiser: Denoiser,
    mode: str = "sds",
    *,
    steps: int | None = None,
    times: Sequence[float] | None = None,
    span: tuple[float, float] = (0.02, 0.98),
    weight: str | Callable[[float], float] = "one",
    seeds: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    student: Denoiser | str | None = None,
    solver: str = "alf",
    nfe: int | None = None,
) -> Distilled:
    """A loss whose gradient, x - D(alpha x + sigma e), pulls images, or what renders them, to the samples of a model.

        loss = guidance.distil(denoiser, "cfd", steps=200, seeds=[0])
        for k in range(200): loss(render(parameters), step=k).backward();     optimizer.step();     optimizer.zero_grad()

    Args:
        denoiser: what is drawn from; guided as it should be, by guidance.cfg(...), say.
        mode: "sds": e drawn anew in each step. "vsd": the same, with x replaced by a student's D'(x_t), that of the law of the
            images; "sdi": e such that x_t leads to x by the ODE (inversion, exact to its tolerance). "cfd": one e a seed, and t
            falls: with steps of gradient descent of 1 - rho'/rho, rho = sigma / alpha, that is DDIM. "dsd": e is what the ODE
            path of the seed has at the time, and t falls: with steps of 1, DDIM too.
        steps: of the optimisation; of sdi, cfd and dsd, whose times fall from one to the next. times: all of them instead, in
            the schedule's time. span: of the schedule's time, as shares, within which times are drawn or fall.
        weight: w(t): "one", "sigma2", "alpha2", or a function of t. seeds: one an image, for cfd and dsd. generator: of e
            and t.
        student: of vsd, a Denoiser (loss.student_loss(images) trains it) or "particles", the exact one of the batch of images.
        solver, nfe: of the inversion (sdi, 10 evaluations), one that `adjoint.invert` knows; nfe of the path of dsd (50).

    Returns:
        loss(images, step=None) -> one number, summed over images: half the mean square of the gradient, whose derivative is it.

    Cost: one network call; sdi one inversion more, dsd one path at first, vsd one call of the student.

    Raises:
        ValueError: an unknown mode or weight, no steps where times fall, no seeds, no student; images of another shape later.

    Reference: DreamFusion: Text-to-3D using 2D Diffusion, Poole, Jain, Barron, Mildenhall, 2022, arXiv:2209.14988;
        ProlificDreamer, Wang et al., 2023, arXiv:2305.16213; Score Distillation via Reparametrized DDIM, Lukoianov et al.,
        2024, arXiv:2405.15891; Diverse Score Distillation, Xu, Srinivasa, Liu, Tulsiani, 2024, arXiv:2412.06780; Consistent
        Flow Distillation for Text-to-3D Generation, Yan, Chen, Wang, 2025, arXiv:2501.05445.
    """
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    if not callable(weight) and weight not in WEIGHTS:
        raise unknown("weight", weight, WEIGHTS)
    if (student is not None) != (mode == "vsd"):
        raise ValueError(
            "`student` goes with mode 'vsd': a Denoiser of the images' own law, or 'particles', their exact one"
        )
    if student is not None and not isinstance(student, Denoiser) and student not in STUDENTS:
        raise unknown("student", student, STUDENTS)
    if (seeds is not None) != (mode in ("cfd", "dsd")):
        raise ValueError("`seeds`, one an image, go with modes 'cfd' and 'dsd', which follow one path a seed")
    if nfe is not None:
        whole("nfe", nfe, hint="It counts the evaluations of an inversion or a path")
    if denoiser.schedule.has_mean:
        raise ValueError("a mean-reverting schedule has no noise to draw from: distil from another model")
    low, high = span
    if not 0 <= low < high <= 1:
        raise ValueError(f"`span` must be two rising shares of the schedule's time, 0 to 1; got {span!r}")
    falling = None
    if times is not None:
        falling = np.asarray(times, np.float64)
        if falling.ndim != 1 or len(falling) < 1 or (np.diff(falling) >= 0).any():
            raise ValueError("`times` must fall from each step of the optimisation to the next")
    elif mode not in ("sds", "vsd"):
        count = whole("steps", steps, hint=f"Times of mode {mode!r} fall with them")
        end, begin = denoiser.schedule.t_end, denoiser.schedule.t_max
        falling = np.linspace(end + high * (begin - end), end + low * (begin - end), count)
    return Distilled(
        denoiser,
        Noises(denoiser, mode, seeds, generator, falling, solver, nfe or (10 if mode == "sdi" else 50)),
        falling,
        span,
        weight,
        student,
    )


class Distilled:
    """The loss that `distil` makes."""

    def __init__(
        self, denoiser: Denoiser, noises: Noises, falling: Any, span: tuple[float, float], weight: Any, student: Any
    ) -> None:
        self.denoiser, self.noises, self.falling, self.span = denoiser, noises, falling, span
        self.weight, self.student = weight, student
        self._next = 0

    def __call__(self, images: Tensor, step: int | None = None) -> Tensor:
        """One number with a gradient to images (B, *shape); step: of the optimisation, else one more than before."""
        if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim < 2:
            got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"the loss takes a batch of images, floats (B, *shape); got {got}")
        k = self._next if step is None else whole("step", step, 0)
        self._next = k + 1
        with torch.no_grad():
            gradient = self.gradient(images.detach(), self._time(k), k)
            target = wide(images.detach()) - gradient
        return 0.5 * (wide(images) - target).square().sum()

    def gradient(self, x: Tensor, t: float, step: int) -> Tensor:
        """w(t) (x - D(x_t, t)) of images (B, *shape) without a graph; of vsd with the student's answer for x."""
        at = self.denoiser.schedule.nodes(t)
        e = self.noises.at(x, t, step)
        x_t = (float(at.alpha) * wide(x) + float(at.sigma) * e).to(x.dtype)
        own = wide(x) if self.student is None else wide(self._students(x, x_t, t))
        return self._weighted(t) * (own - wide(self.denoiser.x0(x_t, t)))

    def student_loss(self, images: Tensor) -> Tensor:
        """What the student of vsd is trained by on detached images: |D'(x_t, t) - x|^2 / d at a random time."""
        if not isinstance(self.student, Denoiser):
            raise ValueError("only a student that is a Denoiser is trained: distil(..., 'vsd', student=Denoiser(...))")
        t, x = self._drawn_time(), images.detach()
        at = self.denoiser.schedule.nodes(t)
        x_t = float(at.alpha) * x + float(at.sigma) * self.noises.fresh(x)
        return (wide(self.student.x0(x_t, t)) - wide(x)).square().mean()

    def _students(self, x: Tensor, x_t: Tensor, t: float) -> Tensor:
        """D'(x_t): of a network, or of the law that has the same mass at each of the images."""
        if isinstance(self.student, Denoiser):
            return self.student.x0(x_t, t)
        at = self.denoiser.schedule.nodes(t)
        particles, noisy = x.double().flatten(1), x_t.double().flatten(1)
        gaps = torch.cdist(noisy, float(at.alpha) * particles).square()
        shares = torch.softmax(-0.5 * gaps / float(at.sigma) ** 2, 1)
        return (shares @ particles).view_as(x).to(x.dtype)

    def _time(self, step: int) -> float:
        if self.falling is None:
            return self._drawn_time()
        if step >= len(self.falling):
            raise ValueError(f"step {step} is beyond the {len(self.falling)} that were said: distil(..., steps=N)")
        return float(self.falling[step])

    def _drawn_time(self) -> float:
        schedule, share = self.denoiser.schedule, float(torch.rand((), generator=self.noises.generator))
        low, high = self.span
        return float(schedule.t_end + (low + share * (high - low)) * (schedule.t_max - schedule.t_end))

    def _weighted(self, t: float) -> float:
        if callable(self.weight):
            return float(self.weight(t))
        at = self.denoiser.schedule.nodes(t)
        return {"one": 1.0, "sigma2": float(at.sigma) ** 2, "alpha2": float(at.alpha) ** 2}[self.weight]
