"""Restoring methods of fewstep, azula and deepinv beside each other: the same denoiser, operator and number of network calls.

    python tests/benchmarks/restoring_peers.py --task linear
    python tests/benchmarks/restoring_peers.py --task digits --calls 20,50,100

linear: the Gaussian problem of inverse.py, whose denoiser and posterior are exact. A cell is the error of the mean, of the
covariance (relative), and the sliced Wasserstein distance to the posterior over its deviation. digits: PSNR in dB of digits of
which 70 % are missing. Packages that are not installed are left out, and said; RED-diff is written out from its formula.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import kept
import torch
from torch import Tensor

sys.path[:0] = [str(Path(__file__).parents[1] / "helpers"), str(kept.ROOT / "examples")]
from restore_digits import NOISE, TASKS, psnr, truth  # noqa: E402
from restoring import Linear  # noqa: E402

from fewstep import Denoiser, NoiseSchedule, load_demo_pipeline, sample  # noqa: E402
from fewstep.arguments import NUMBERS  # noqa: E402
from fewstep.demo.pipeline import NULL_CLASS  # noqa: E402
from fewstep.samplers import guidance  # noqa: E402

LOW, HIGH = 0.005, 30.0  # sigma


@dataclass
class Task:
    """A denoiser D(x, sigma), an operator with y = A(x) + noise, and what is told of samples."""

    denoise: Callable[[Tensor, float], Tensor]
    A: guidance.Operator
    y: Tensor
    noise: float
    shape: tuple[int, ...]  # with the batch
    told: Callable[[Tensor], str]
    singular: tuple[Tensor, Tensor, Tensor]  # U (m, d), s (d,), V (d, d) of the operator on flat samples, with zeros
    calls: int = 0

    def network(self, x: Tensor, sigma: Any) -> Tensor:
        self.calls += 1
        return self.denoise(x, float(torch.as_tensor(sigma).flatten()[0]))

    @property
    def dtype(self) -> torch.dtype:
        return self.y.dtype

    def start(self) -> Tensor:
        return HIGH * torch.randn(self.shape, dtype=self.dtype)


def ours(name: str, solver: str = "dpmpp_2m_sde", **options: Any) -> Callable[[Task, int], Tensor]:
    def run(task: Task, nfe: int) -> Tensor:
        schedule = NoiseSchedule.edm(LOW, HIGH)
        denoiser = Denoiser(task.network, schedule, "sample")
        guided = getattr(guidance, name)(denoiser, task.y, task.A, task.noise, **options)
        return sample(guided, task.start(), solver, nfe)

    return run


def azula(name: str, **options: Any) -> Callable[[Task, int], Tensor]:
    def run(task: Task, nfe: int) -> Tensor:
        from azula import guidance as theirs
        from azula import sample as samplers
        from azula.denoise import Denoiser as Base
        from azula.denoise import DiracPosterior
        from azula.linalg.covariance import IsotropicCovariance
        from azula.noise import VESchedule

        class Exact(Base):
            def __init__(self) -> None:
                super().__init__()
                self.schedule = VESchedule(LOW, HIGH)

            def forward(self, x: Tensor, t: Tensor, **_: Any) -> Any:
                return DiracPosterior(mean=task.network(x, self.schedule(t)[1]))

        how = {"steps": nfe, "silent": True, "dtype": torch.float64}
        y = task.y.expand(task.shape[0], *task.y.shape[1:])
        if name in ("DPSSampler", "PGDMSampler"):
            more = {"A_inv": lambda v: backward(task, v), "eta": 1.0} if name == "PGDMSampler" else {}
            return getattr(theirs, name)(Exact(), y=y, A=task.A, **more, **options, **how)(task.start())
        variance = {"cov_y": IsotropicCovariance(torch.tensor(task.noise**2))} if name == "MMPSDenoiser" else {}
        variance = variance or {"var_y": task.noise**2}
        guided = getattr(theirs, name)(Exact(), y=y, A=task.A, **variance, **options)
        return samplers.DDPMSampler(guided, **how)(task.start())

    return run


def backward(task: Task, v: Tensor) -> Tensor:
    """The pseudo-inverse of a measurement."""
    U, s, V = task.singular
    return (v.flatten(1) @ U * torch.where(s > 0, 1 / s, 0) @ V.T).view(len(v), *task.shape[1:])


def deepinv(name: str, **options: Any) -> Callable[[Task, int], Tensor]:
    def run(task: Task, nfe: int) -> Tensor:
        import deepinv as dinv
        from deepinv.sampling import diffusion_sde, sde_solver

        n, shape = task.shape[0], task.shape[1:]
        U, s, V = task.singular
        image = shape if len(shape) == 3 else (1, 1, shape[0])
        told = (1, 1, len(s))
        physics = dinv.physics.DecomposablePhysics(
            U=lambda u: (u.flatten(1) @ U.T.to(u)).view(len(u), *told[:2], -1),
            U_adjoint=lambda y: (y.flatten(1) @ U.to(y)).view(len(y), *told),
            V=lambda v: (v.flatten(1) @ V.T.to(v)).view(-1, *image),
            V_adjoint=lambda x: (x.flatten(1) @ V.to(x)).view(len(x), *told),
            mask=s.view(1, *told),
            noise_model=dinv.physics.GaussianNoise(task.noise),
        )
        y = task.y.flatten(1).expand(n, -1).reshape(n, 1, 1, -1)

        class Network(torch.nn.Module):
            def forward(self, x: Tensor, sigma: Any, *_: Any, **__: Any) -> Tensor:
                return task.network(x.reshape(-1, *shape), sigma).view_as(x)

        if name == "DDRM":
            levels = torch.logspace(*(float(torch.tensor(v).log10()) for v in (HIGH, LOW)), nfe)
            return dinv.sampling.DDRM(Network(), sigmas=levels, **options)(y.clone(), physics).view(task.shape)
        fidelity = getattr(dinv.sampling, name)(**options)
        sde = diffusion_sde.VarianceExplodingDiffusion(sigma_min=LOW, sigma_max=HIGH, alpha=1.0, dtype=torch.float64)
        solver = sde_solver.AncestralSolver(timesteps=torch.linspace(1, 0, nfe, dtype=torch.float64))
        model = diffusion_sde.PosteriorDiffusion(
            fidelity, denoiser=Network(), sde=sde, solver=solver, dtype=torch.float64, minus_one_one=False
        )
        return model(y, physics, x_init=task.start().view(n, *image)).view(task.shape)

    return run


def red_diff(task: Task, nfe: int, rate: float = 0.1, weight: float = 0.25) -> Tensor:
    """RED-diff: mu by Adam on |y - A mu|^2 and weight sigma <eps(mu + sigma e) - e, mu>, sigma falling (Mardani, 2023)."""
    mu = torch.zeros(task.shape, dtype=task.dtype)
    first, second = torch.zeros_like(mu), torch.zeros_like(mu)
    levels = torch.logspace(float(torch.tensor(HIGH).log10()), float(torch.tensor(LOW).log10()), nfe)
    for k, sigma in enumerate(levels.tolist()):
        e = torch.randn_like(mu)
        x = mu + sigma * e
        away = (x - task.network(x, sigma)) / sigma - e
        g = task.A.T(task.A(mu) - task.y) + weight * sigma * away
        first, second = 0.9 * first + 0.1 * g, 0.99 * second + 0.01 * g * g
        scaled = first / (1 - 0.9 ** (k + 1)) / ((second / (1 - 0.99 ** (k + 1))).sqrt() + 1e-8)
        mu = mu - rate * scaled
    return mu


METHODS: dict[str, tuple[str, Callable[[Task, int], Tensor]]] = {
    "`daps`": ("", ours("daps", "renoise", iterations=4)),
    "`daps`, spread": ("", ours("daps", "renoise", covariance="spread")),
    "`exact_covariance`": ("", ours("exact_covariance", iterations=3)),
    "`pigdm`": ("", ours("pigdm")),
    "`dps`": ("", ours("dps")),
    "`dps`, 3 iterations": ("", ours("dps", iterations=3)),
    "`exact_covariance`, `ddpm on exponential`": ("", ours("exact_covariance", "ddpm on exponential", iterations=3)),
    "`dps`, 3 iterations, `ddpm on exponential`": ("", ours("dps", "ddpm on exponential", iterations=3)),
    "`dds`": ("", ours("dds")),
    "`mpgd`": ("", ours("mpgd")),
    "`dreamguider`": ("", ours("dreamguider")),
    "DPS (azula)": ("azula", azula("DPSSampler")),
    "PiGDM (azula)": ("azula", azula("PGDMSampler")),
    "DiffPIR (azula)": ("azula", azula("DiffPIRDenoiser", lmbda=1.0, iterations=3, solver="cg")),
    "TMPD (azula)": ("azula", azula("TMPDenoiser")),
    "MMPS (azula), 1 iteration": ("azula", azula("MMPSDenoiser")),
    "MMPS (azula), 3": ("azula", azula("MMPSDenoiser", iterations=3)),
    "DPS (deepinv), annealed": ("deepinv", deepinv("DPSDataFidelity", guidance="annealed")),
    "PiGDM (deepinv)": ("deepinv", deepinv("PiGDMDataFidelity")),
    "moment matching (deepinv)": ("deepinv", deepinv("MomentMatchingDataFidelity")),
    "DDRM (deepinv)": ("deepinv", deepinv("DDRM")),
    "RED-diff, formula": ("", red_diff),
}


def linear(number: int) -> Task:
    torch.set_default_dtype(torch.float64)
    problem = Linear()
    U, s, Vh = torch.linalg.svd(problem.A, full_matrices=True)
    U, s = (torch.nn.functional.pad(v, (0, problem.d - len(s))) for v in (U, s))
    root = torch.linalg.cholesky(problem.covariance)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        gain = problem.turn * (problem.spectrum / (problem.spectrum + sigma**2)) @ problem.turn.T
        return x @ gain.to(x)

    def told(x: Tensor) -> str:
        mean = (x.mean(0) - problem.mean).norm() / problem.mean.norm()
        covariance = (torch.cov(x.T) - problem.covariance).norm() / problem.covariance.norm()
        along = torch.randn(problem.d, 64, generator=torch.Generator().manual_seed(3))
        along = along / along.norm(dim=0)
        deviation = (root.T @ along).norm(dim=0)
        quantiles = torch.special.ndtri((torch.arange(len(x)) + 0.5) / len(x))[:, None]
        gap = (((x - problem.mean) @ along).sort(0).values / deviation - quantiles).abs().mean()
        return f"{mean:.3f} / {covariance:.3f} / {gap:.3f}"

    return Task(denoise, problem.operator, problem.y, problem.noise, (number, problem.d), told, (U, s, Vh.T))


def digits(images: int) -> Task:
    pipe = load_demo_pipeline()
    unet, schedule = pipe.unet.requires_grad_(False), NoiseSchedule.from_config(pipe.scheduler.config)
    plain = Denoiser(lambda x, t: unet(x, t, class_labels=torch.full((len(x),), NULL_CLASS)).sample, schedule)
    with torch.no_grad():
        clean = truth(plain, images, None)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        t = min(float(schedule.t_of_lam(-math.log(max(sigma, 0.02)))), schedule.t_max)
        return plain.x0(x.float() * float(schedule.alpha(t)), t).to(x)

    A = TASKS["inpaint"]()
    known = A(torch.ones(1, 1, 28, 28)).flatten() > 0
    basis = torch.eye(784) * known
    y = A(clean + NOISE * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)))
    return Task(
        denoise, A, y, NOISE, tuple(clean.shape), lambda x: f"{psnr(x.float(), clean):.1f}",
        (basis, known.float(), torch.eye(784)),
    )  # fmt: skip


@click.command()
@click.option("--task", type=click.Choice(["linear", "digits"]), default="linear", show_default=True)
@click.option("--calls", type=NUMBERS, default="20,50,100", show_default=True)
@click.option("--number", default=4000, show_default=True, help="Samples of the linear problem.")
@click.option("--images", default=8, show_default=True, help="Digits.")
@click.option("--only", multiple=True, help="Methods whose names hold this.")
@kept.keep
def main(task: str, calls: tuple[int, ...], number: int, images: int, only: tuple[str, ...], keep: bool) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    problem, rows = linear(number) if task == "linear" else digits(images), []
    for package in ("azula", "deepinv"):
        if find_spec(package) is None:
            click.echo(f"{package} is not installed: left out (pip install {package})")
    for name, (package, run) in METHODS.items():
        if (package and find_spec(package) is None) or (only and not any(part in name for part in only)):
            continue
        cells, began = [], time.process_time()
        for nfe in calls:
            torch.manual_seed(0)
            problem.calls = 0
            with torch.no_grad():
                told = problem.told(run(problem, nfe).detach())
            cells.append(told if problem.calls <= nfe + 1 else f"{told} ({problem.calls} calls)")
        rows.append([name, *cells])
        click.echo(f"{name}: {', '.join(cells)}  {time.process_time() - began:.1f} s", err=True)
    kept.show(f"restoring_peers_{task}", ("method", *(f"{n}{' calls' * (n == calls[0])}" for n in calls)), rows, keep)


if __name__ == "__main__":
    main()
