"""gotta_go_fast: the law of its samples, the path that a rejected step keeps, and what it costs beside fixed steps."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, starts
from torch import Tensor

from fewstep.samplers import Denoiser, NoiseSchedule, sample
from fewstep.samplers.noise.brownian import BrownianPaths

VP = NoiseSchedule.vp_linear()


def marginal(schedule: NoiseSchedule, t: float, n: int, width: int, problem: Gaussian) -> Tensor:
    """n states of the problem's own marginal at time t, of independent elements."""
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    z = torch.randn(n, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return alpha * problem.mean + (alpha**2 * problem.std**2 + sigma**2) ** 0.5 * z


def check_law(schedule: NoiseSchedule, n: int, width: int, vector_time: bool) -> None:
    """Mean and deviation within 2 % of the deviation, and three standard errors of the draw."""
    problem, t = Gaussian(), schedule.t_max
    prediction = "v_prediction" if schedule.alpha(t) == 0 else "epsilon"
    denoiser = problem.denoiser(schedule, prediction, vector_time=vector_time)
    x = marginal(schedule, t, n, width, problem)
    got, info = sample(denoiser, x, "gotta_go_fast", rtol=0.05, noise_seeds=range(n), return_info=True)
    error = problem.std / (n * width) ** 0.5
    assert info.status == "done" and (width > 1 or len(set(info.each)) > 1)
    assert abs(float(got.mean()) - problem.mean) < 0.02 * problem.std + 3 * error
    assert abs(float(got.std()) - problem.std) < 0.02 * problem.std + 3 * error / 2**0.5


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [VP, NoiseSchedule.edm(), NoiseSchedule.flow()], ids=["vp", "edm", "flow"])
@pytest.mark.parametrize("vector_time", [False, True])
def test_law_of_gaussian_data(schedule: NoiseSchedule, vector_time: bool) -> None:
    """16000 draws, as 8 samples of 2000 elements."""
    check_law(schedule, 8, 2000, vector_time)


@pytest.mark.slow
def test_law_of_gaussian_data_one_number_a_sample() -> None:
    """2000 samples of one number, every one with steps of its own: choosing steps by the noise biases nothing."""
    check_law(VP, 2000, 1, True)


def on_path(denoiser: Denoiser, x: Tensor, seeds: list[int], n: int = 1000) -> Tensor:
    """Euler-Maruyama in lam on the samples' own paths, written out, with n fixed steps."""
    lams = np.linspace(float(VP.lam(1.0)), float(VP.lam(1e-3)), n + 1)
    paths = [BrownianPaths(seed) for seed in seeds]
    for s, e in zip(lams[:-1], lams[1:], strict=True):
        t, h = float(VP.t_of_lam(s)), e - s
        sigma = float(VP.sigma(t))
        z = torch.from_numpy(np.stack([p.increment(s, e, x.shape[1:]) for p in paths])).double()
        x = x + h * sigma * (sigma * x - 2 * denoiser.eps(x, t)) + sigma * (2 * h) ** 0.5 * z
    return x


@pytest.mark.slow
def test_rejected_noise_is_kept() -> None:
    """With a first step far too long every sample rejects, and still follows the path of the fixed-step reference."""
    seeds = [3, 4, 5]
    denoiser, x = Mixture().denoiser(VP, vector_time=True), starts(VP, 1.0, 3)
    want = on_path(Mixture().denoiser(VP), x, seeds)
    errors = []
    for scale in (1.0, 1 / 8):
        options = {"rtol": 0.05 * scale, "atol": 0.0078 * scale, "h_init": 5.0, "denoise": False, "nfe": 10**4}
        got, info = sample(denoiser, x, "gotta_go_fast", noise_seeds=seeds, return_info=True, **options)
        assert info.rejected >= 3 and info.status == "done"
        errors.append(float((got - want).square().mean().sqrt()))
    assert errors[1] < 0.4 * errors[0] and errors[1] < 0.03, errors


def test_two_runs_are_one_and_seeds_differ() -> None:
    denoiser, x = Mixture().denoiser(VP), starts(VP, 1.0, 2)
    run = partial(sample, denoiser, x, "gotta_go_fast", rtol=0.05)
    first, again, other = (run(noise_seeds=s) for s in ([1, 2], [1, 2], [3, 4]))
    assert torch.equal(first, again) and float((first - other).abs().max()) > 0.05
    a, b = (run(generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a, b)


def test_denoise_is_one_evaluation_more() -> None:
    """The result is E[x0 | x] of the state without; where sigma = 0 the end is that anyway."""
    denoiser, x, how = Mixture().denoiser(VP), starts(VP, 1.0, 2), {"noise_seeds": [1, 2], "rtol": 0.05}
    (clean, one), (noisy, none) = (
        sample(denoiser, x, "gotta_go_fast", denoise=d, return_info=True, **how) for d in (True, False)
    )
    assert one.nfe == none.nfe + 1
    assert torch.allclose(clean, denoiser.x0(noisy, 1e-3), rtol=0, atol=1e-9)
    edm = NoiseSchedule.edm()
    x = starts(edm, 80.0, 2)
    same = [sample(Mixture().denoiser(edm), x, "gotta_go_fast", denoise=d, **how) for d in (True, False)]
    assert torch.equal(*same)


@pytest.mark.slow
def test_half_the_evaluations_of_euler_maruyama() -> None:
    """Deviation of Gaussian data against a fine solution on the same paths: Euler-Maruyama with twice as many is worse."""
    problem = Gaussian()
    denoiser = problem.denoiser(VP)
    x, run = marginal(VP, 1.0, 4, 2000, problem), {"noise_seeds": range(4), "return_info": True}
    fine, _ = sample(denoiser, x, "dpmpp_2m_sde", 300, "logsnr", noise="brownian", **run)
    got, info = sample(denoiser, x, "gotta_go_fast", rtol=0.05, denoise=False, **run)
    error = abs(float(got.std() - fine.std()))
    for grid in ("uniform", "quadratic", "logsnr"):
        em, _ = sample(denoiser, x, "euler_maruyama", 2 * info.nfe, grid, noise="brownian", **run)
        assert abs(float(em.std() - fine.std())) > error
