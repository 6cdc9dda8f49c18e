"""PFGM++: EDM's tables, a prior with heavy tails, and jumps that keep them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy
import torch
from problems import Mixture, starts

import fewstep
from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, build, sample
from fewstep.samplers.schedule.poisson import PFGM

EDM = NoiseSchedule.edm()
NAMES = [name for name, entry in SOLVERS.items() if entry.kind == "tableau"]
DIMENSIONS = [(1, 1), (2, 3), (4, 64), (3, 2048)]  # N, D


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def p_value(x: np.ndarray, sigma: float, D: float) -> float:
    """Of x (n, N) ~ p_r(x | 0), r = sigma sqrt(D): |x|^2 / (|x|^2 + r^2) is Beta(N / 2, D / 2)."""
    square = (x**2).sum(1)
    return float(
        scipy.stats.kstest(square / (square + sigma**2 * D), scipy.stats.beta(x.shape[1] / 2, D / 2).cdf).pvalue
    )


# Tables and prior ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_those_of_edm(name: str) -> None:
    for nfe in (1, 7):
        mine, edm = build(name, NoiseSchedule.pfgm(128), nfe), build(name, EDM, nfe)
        assert np.array_equal(mine.W, edm.W) and np.array_equal(mine.times, edm.times)


@pytest.mark.parametrize(("N", "D"), DIMENSIONS)
def test_the_prior_is_the_kernel_at_the_largest_radius(N: int, D: int) -> None:
    schedule = NoiseSchedule.pfgm(D, sigma_max=5.0)
    x = schedule.initial_noise((20000, N), torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    assert p_value(x, 5.0, D) > 1e-3
    wrong = EDM.initial_noise((20000, N), torch.Generator().manual_seed(0), dtype=torch.float64).numpy() * 5 / 80
    assert D > 10 or p_value(wrong, 5.0, D) < 1e-10
    radius = np.sqrt((x**2).sum(1))
    assert (
        scipy.stats.ks_2samp(radius, 5 * D**0.5 * np.sqrt(1 / (1 / rng().beta(N / 2, D / 2, 20000) - 1))).pvalue > 1e-3
    )


def test_the_prior_of_a_sample_is_its_generator_s() -> None:
    schedule = NoiseSchedule.pfgm(8)
    together = schedule.initial_noise((3, 2, 4), [torch.Generator().manual_seed(i) for i in (1, 2, 3)])
    alone = schedule.initial_noise((1, 2, 4), torch.Generator().manual_seed(2))
    assert torch.equal(together[1:2], alone) and together.dtype == torch.float32


@pytest.mark.parametrize("D", [1e6, 1e9, 1e15])
def test_many_dimensions_are_diffusion(D: float) -> None:
    seeded = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    got = NoiseSchedule.pfgm(D).initial_noise((50, 4), seeded(), dtype=torch.float64)
    edm = EDM.initial_noise((50, 4), seeded(), dtype=torch.float64)
    assert float((got / edm - 1).abs().max()) < 4 / D**0.5 + 1e-12
    scale = NoiseSchedule.pfgm(D).jump_scale(0.3, 1.0, np.array([1e-6, 0.5, 1 - 1e-6]))
    assert np.all(np.abs(scale - 1) < 5 / D**0.5 + 1e-12)
    pfgm, plain = Mixture().denoiser(NoiseSchedule.pfgm(D), "sample"), Mixture().denoiser(EDM, "sample")
    x, how = starts(EDM, 80.0, 4), {"solver": "restart", "nfe": 20, "noise_seeds": [1, 2, 3, 4]}
    assert torch.allclose(sample(pfgm, x, **how), sample(plain, x, **how), atol=20 / D**0.5 + 1e-9)


def test_a_schedule_is_saved(tmp_path: Any) -> None:
    table = build("heun", NoiseSchedule.pfgm(2048, 0.01, 50.0), 5)
    table.save(tmp_path / "table.json")
    back = fewstep.load(tmp_path / "table.json").schedule
    assert back == table.schedule and isinstance(back, PFGM) and (back.D, back.sigma_max) == (2048, 50.0)


# Jumps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9, 0.99])
def test_one_dimension_has_levy_s_law(ratio: float) -> None:
    """D = 1: S is the time at which a Brownian motion first moves by r_new - r_old, (r_new - r_old)^2 / z^2."""
    u = np.array([1e-5, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-5])
    got = NoiseSchedule.pfgm(1).jump_scale(3 * ratio, 3.0, u)
    assert np.allclose(got, (1 - ratio) / np.sqrt(1 - ratio**2) / scipy.special.ndtri(1 - u / 2), rtol=2e-5)


def test_one_data_dimension_moves_by_a_cauchy_step() -> None:
    """N = D = 1: p_r is the Cauchy law of scale r, and only a Cauchy step of r_new - r_old leads on to it."""
    schedule, n = NoiseSchedule.pfgm(1), 50000
    moved = rng(1).standard_normal(n) * schedule.jump_scale(0.5, 2.0, rng(2).random(n)) * np.sqrt(2.0**2 - 0.5**2)
    assert scipy.stats.kstest(moved, scipy.stats.cauchy(scale=1.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.95])
@pytest.mark.parametrize(("N", "D"), DIMENSIONS)
def test_a_jump_keeps_the_marginal(N: int, D: int, ratio: float) -> None:
    schedule, n, new = NoiseSchedule.pfgm(D), 100000, 3.0
    old, random = ratio * new, rng(D)
    x = old * random.standard_normal((n, N)) * np.sqrt(D / random.chisquare(D, (n, 1)))
    z = np.sqrt(new**2 - old**2) * random.standard_normal((n, N))
    assert p_value(x + z * schedule.jump_scale(old, new, random.random(n))[:, None], new, D) > 1e-3
    if D < 10 and ratio < 0.9:
        assert p_value(x + z, new, D) < 1e-10  # Gaussian noise does not


@pytest.mark.slow
@pytest.mark.parametrize("D", [1.0, 3.0, 20.0, 98.0, 102.0, 2048.0, 8000.0, 1e5])
def test_the_squared_scale_adds_up(D: float) -> None:
    """V_old + S = V_new in law, whatever N: the chi-square law of D / V, on both sides of every change of method."""
    schedule, n = NoiseSchedule.pfgm(D), 100000
    for ratio in (0.2, 0.7, 0.97):
        V = ratio**2 * D / rng(1).chisquare(D, n)
        V = V + (1 - ratio**2) * schedule.jump_scale(ratio, 1.0, rng(2).random(n)) ** 2
        assert scipy.stats.kstest(D / V, scipy.stats.chi2(D).cdf).pvalue > 1e-3


def test_from_no_noise_a_jump_is_the_prior() -> None:
    schedule, u = NoiseSchedule.pfgm(5), np.array([0.1, 0.5, 0.9])
    assert np.allclose(schedule.jump_scale(0.0, 2.0, u), np.sqrt(5 / scipy.stats.chi2(5).isf(u)))
    assert np.allclose(schedule.jump_scale(1e-6, 2.0, u), schedule.jump_scale(0.0, 2.0, u), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("D", [1, 3, 2048])
def test_restart_keeps_the_marginal(D: int) -> None:
    """Data that is one point: the flow only scales, so what is left at the end is the law of the prior and the jumps."""
    schedule = NoiseSchedule.pfgm(D)
    denoiser = Denoiser(lambda x, tau: torch.zeros_like(x), schedule, "sample")
    x = schedule.initial_noise((4000, 2), torch.Generator().manual_seed(0), dtype=torch.float64)
    how = {"solver": "restart", "nfe": 20, "t_end": 0.1, "base": "ddim", "intervals": [(3, 3, 0.2, 2.0)]}
    for noise in ({"noise_seeds": range(4000)}, {"generator": torch.Generator().manual_seed(1)}):
        assert p_value(sample(denoiser, x, **how, **noise).numpy(), 0.1, D) > 1e-3
    gaussian = Denoiser(denoiser.fn, EDM, "sample")
    assert D > 100 or p_value(sample(gaussian, x, **how, noise_seeds=range(4000)).numpy(), 0.1, D) < 1e-10


@pytest.mark.parametrize("noise", ["independent", "brownian"])
def test_the_noise_of_a_jump_belongs_to_the_sample(noise: str) -> None:
    schedule = NoiseSchedule.pfgm(3)
    denoiser = Denoiser(lambda x, tau: torch.tanh(x), schedule, "sample")
    x, how = starts(schedule, 80.0, 4), {"solver": "restart", "nfe": 20, "noise": noise}
    together = sample(denoiser, x, noise_seeds=[5, 6, 7, 8], **how)
    assert torch.equal(together, sample(denoiser, x, noise_seeds=[5, 6, 7, 8], **how))
    assert torch.equal(together[2:3], sample(denoiser, x[2:3], noise_seeds=[7], **how))
    generators = lambda *seeds: [torch.Generator().manual_seed(s) for s in seeds]  # noqa: E731
    together = sample(denoiser, x, generator=generators(5, 6, 7, 8), **how)
    assert torch.equal(together[2:3], sample(denoiser, x[2:3], generator=generators(7), **how))


# Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("D", [0, 0.5, -3, float("nan"), float("inf")])
def test_wrong_dimensions_are_refused(D: float) -> None:
    with pytest.raises(ValueError, match="`D`, the number of extra dimensions, must be a number of at least 1"):
        NoiseSchedule.pfgm(D)


@pytest.mark.parametrize(
    ("old", "new"), [(2.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, float("inf"))]
)
def test_a_jump_goes_up(old: float, new: float) -> None:
    with pytest.raises(ValueError, match="noise goes from a lower to a higher sigma"):
        NoiseSchedule.pfgm(3).jump_scale(old, new, 0.5)


JUMPING = {
    **dict.fromkeys(("ddpm", "euler_ancestral", "dpm_2_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde", "er_sde", "edm_stochastic",
                     "renoise", "rex_sde"), {}),
    "ddim": {"eta": 1.0},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("D", [1, 3])
def test_every_noise_is_a_jump_by_its_law_or_is_refused(D: int) -> None:
    """Data that is one point: what is left at the end is the kernel there, whatever the solver; Gaussian noise would not do."""
    schedule = NoiseSchedule.pfgm(D)
    denoiser = Denoiser(lambda x, tau: torch.zeros_like(x), schedule, "sample", vector_time=True)
    x = schedule.initial_noise((2000, 2), torch.Generator().manual_seed(0), dtype=torch.float64)
    for name, entry in SOLVERS.items():
        options = JUMPING.get(name, {})
        if not entry.stochastic and not options:
            continue
        how = {"t_end": 0.1, "noise_seeds": range(len(x)), **options}
        if name == "dlg":
            how |= {"classifier": lambda y: torch.zeros(len(y), 8), "levels": (0.01, 80.0)}
        try:
            end = sample(denoiser, x, name, 12, **how)
        except ValueError as error:
            assert name not in JUMPING and ("no jump of PFGM" in str(error) or "PFGM has neither" in str(error)), error
            continue
        assert p_value(end.numpy(), 0.1, D) > 1e-3, name


def test_the_noise_of_every_row_belongs_to_the_sample() -> None:
    schedule = NoiseSchedule.pfgm(3)
    denoiser = Denoiser(lambda x, tau: torch.tanh(x), schedule, "sample")
    x = starts(schedule, 80.0, 4)
    together = sample(denoiser, x, "dpmpp_2m_sde", 8, noise_seeds=[5, 6, 7, 8])
    assert torch.equal(together[2:3], sample(denoiser, x[2:3], "dpmpp_2m_sde", 8, noise_seeds=[7]))
