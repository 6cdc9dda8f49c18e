"""Mean-reverting schedules: x = mu + y, where y is a plain process that every solver knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, starts
from torch import Tensor

import fewstep
from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, build, sample
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.schedule.reverting import THETAS, MeanReverting, inverse_kepler, kepler

WIDE = NoiseSchedule.mean_reverting(0.5)
NAMES = [name for name, entry in SOLVERS.items() if entry.kind == "tableau"]
MU = torch.tensor([[0.4, -0.7]], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Plain(MeanReverting):
    """The process of y = x - mu: the same alpha and sigma, reverting to nothing."""

    kind = "plain"


def networks(prediction: str, data: Mixture, theta: str = "cosine") -> tuple[Denoiser, Denoiser]:
    """One network for x and one for y = x - mu, whose clean samples are the mixture's less mu."""
    reverting, plain = MeanReverting(0.5, theta), Plain(0.5, theta)

    def of_y(y: Tensor, tau: Tensor) -> Tensor:
        alpha, sigma = (float(f(float(tau))) for f in (plain.alpha, plain.sigma))
        x0, eps = data.predict(y + alpha * MU, alpha, sigma)
        return eps if prediction == "epsilon" else x0 - MU

    def of_x(x: Tensor, tau: Tensor) -> Tensor:
        return of_y(x - MU, tau) + (0.0 if prediction == "epsilon" else MU)

    return Denoiser(of_x, reverting, prediction), Denoiser(of_y, plain, prediction)


# The schedule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", THETAS)
def test_the_process_solves_its_equation(theta: str) -> None:
    """d sigma^2 / dt = 2 theta (lam_inf^2 - sigma^2) with theta = -d log(alpha) / dt, and theta is what its name says."""
    schedule = NoiseSchedule.mean_reverting(0.2, theta, 0.01)
    t, h = np.linspace(0.05, 0.95, 19), 1e-5
    rate = -(np.log(schedule.alpha(t + h)) - np.log(schedule.alpha(t - h))) / (2 * h)
    growth = (schedule.sigma(t + h) ** 2 - schedule.sigma(t - h) ** 2) / (2 * h)
    assert np.allclose(growth, 2 * rate * (0.2**2 - schedule.sigma(t) ** 2), rtol=1e-6)
    shape = {"cosine": np.sin(np.pi * t / 2) ** 2, "linear": t, "constant": np.ones_like(t)}[theta]
    assert np.allclose(rate / shape, rate[0] / shape[0], rtol=1e-6)
    assert float(schedule.alpha(0.0)) == 1 and float(schedule.sigma(0.0)) == 0
    assert float(schedule.alpha(1.0)) == pytest.approx(0.01, rel=1e-12)


@pytest.mark.parametrize("theta", THETAS)
def test_lam_and_its_inverse(theta: str) -> None:
    schedule = NoiseSchedule.mean_reverting(0.2, theta)
    t = np.concatenate([np.logspace(-6, -2, 20), np.linspace(0.01, 1, 50)])
    assert np.allclose(schedule.lam(t), np.log(schedule.alpha(t) / schedule.sigma(t)), rtol=1e-13)
    assert np.allclose(schedule.t_of_lam(schedule.lam(t)), t, rtol=1e-12)
    assert schedule.lam(0.0) == np.inf and schedule.t_of_lam(np.inf) == 0


def test_keplers_equation() -> None:
    E = np.concatenate([np.logspace(-8, 0, 50), np.linspace(1, np.pi, 50)])
    assert np.allclose(inverse_kepler(kepler(E)), E, rtol=1e-12)
    assert np.allclose(kepler(E[40:]), E[40:] - np.sin(E[40:]), rtol=1e-13)
    assert np.allclose(kepler(E[:20]), E[:20] ** 3 / 6, rtol=1e-9)


def test_the_start_is_mu_and_noise() -> None:
    mu = torch.full((3, 40, 50), 0.3, dtype=torch.float64)
    schedule = NoiseSchedule.mean_reverting(0.2)
    x = schedule.start(mu, torch.Generator().manual_seed(1))
    assert x.dtype == mu.dtype and float((x - mu).std()) == pytest.approx(0.2, rel=0.03)
    again = schedule.initial_noise(mu.shape, torch.Generator().manual_seed(1), dtype=mu.dtype)
    assert torch.equal(x, mu + again)
    alone = schedule.start(mu[1:2], [torch.Generator().manual_seed(8)])
    assert torch.equal(alone, schedule.start(mu, [torch.Generator().manual_seed(i) for i in (7, 8, 9)])[1:2])


def test_a_schedule_and_its_tables_are_saved(tmp_path: Any) -> None:
    table = build("dpmpp_2m", WIDE, 5)
    table.save(tmp_path / "table.json")
    back = fewstep.load(tmp_path / "table.json")
    assert back.schedule == WIDE and np.array_equal(back.W, table.W) and back.constant


# Solvers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.one_in(3)
def test_every_solver_equals_itself_on_the_plain_process(name: str, prediction: str) -> None:
    of_x, of_y = networks(prediction, Mixture())
    y = starts(WIDE, 1.0, 4)
    for nfe in (1, 2, 9):
        got = sample(of_x, MU + y, name, nfe, mu=MU, noise_seeds=[1, 2, 3, 4])
        want = sample(of_y, y, name, nfe, noise_seeds=[1, 2, 3, 4])
        assert torch.allclose(got - MU, want, rtol=0, atol=1e-10)


def test_clipping_acts_on_clean_samples_of_x() -> None:
    of_x, of_y = networks("epsilon", Mixture())
    y = starts(WIDE, 1.0, 4)
    got = sample(of_x, MU + y, "dpmpp_2m", 9, mu=MU, post=lambda x0: x0.clamp(-0.5, 0.5))
    want = sample(of_y, y, "dpmpp_2m", 9, post=lambda x0: (x0 + MU).clamp(-0.5, 0.5) - MU)
    assert torch.allclose(got - MU, want, rtol=0, atol=1e-10)
    assert float((got - sample(of_x, MU + y, "dpmpp_2m", 9, mu=MU)).abs().max()) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp_2m", 2)])
def test_order_of_the_paper_s_solvers(name: str, order: int, theta: str) -> None:
    of_x, _ = networks("sample", Mixture(((0.6, 0.3), (-0.7, 0.2), (0.1, -0.7)), (0.55, 0.45, 0.6)), theta)
    x, ends = MU + starts(WIDE, 1.0), {"t_end": 0.01, "grid": "logsnr", "mu": MU}
    answer = sample(of_x, x, "etd_rk5", 8 * 200, **ends)
    errors = [float((sample(of_x, x, name, n, **ends) - answer).square().mean().sqrt()) for n in (128, 256, 512)]
    assert np.median(-np.diff(np.log2(errors))) == pytest.approx(order, abs=0.25)


def test_a_gaussian_is_followed_to_its_exact_end() -> None:
    """Data beside mu: y is Gaussian with mean 0.3 - mu, and its flow is known."""
    gaussian, y = Gaussian(0.3, 0.6), starts(WIDE, 1.0, 4)
    of_x, _ = networks("epsilon", gaussian)
    t, end = 1.0, 0.0
    alpha, sigma = float(WIDE.alpha(t)), float(WIDE.sigma(t))
    centre = 0.3 - MU
    want = MU + centre + (y - alpha * centre) * 0.6 / (alpha**2 * 0.36 + sigma**2) ** 0.5
    got = sample(of_x, MU + y, "dpmpp_2m", 300, "logsnr", t_end=end, mu=MU)
    assert float((got - want).abs().max()) < 1e-3


def test_predictions_are_about_x() -> None:
    for prediction in ("epsilon", "sample"):
        of_x, _ = networks(prediction, Mixture())
        x, t = MU + starts(WIDE, 0.5, 4), 0.5
        alpha, sigma = float(WIDE.alpha(t)), float(WIDE.sigma(t))
        x0, eps = Mixture().predict(x - MU + alpha * MU, alpha, sigma)
        assert torch.allclose(of_x.x0(x, t, MU), x0, atol=1e-10)
        assert torch.allclose(of_x.eps(x, t, MU), eps, atol=1e-10)
        clipped = of_x.predict("eps", x, t, lambda v: v.clamp(-0.2, 0.2), MU)
        assert torch.allclose(clipped, (x - MU - alpha * (x0.clamp(-0.2, 0.2) - MU)) / sigma, atol=1e-10)
        of_x.nfe = 0
        with pytest.raises(ValueError, match="depends on the mean.*mu=mu"):
            of_x.predict({"epsilon": "x0", "sample": "eps"}[prediction], x, t)
        assert of_x.nfe == 0


# Bad input -------------------------------------------------------------------------------------------------------


def test_a_mean_is_asked_for_and_must_fit() -> None:
    of_x, of_y = networks("epsilon", Mixture())
    x = starts(WIDE, 1.0, 4)
    for mu, message in ((None, "needs `mu`"), (torch.zeros(3), r"x_T's shape \(4, 2\).*got \(3,\)"), (0.5, "floating")):
        with pytest.raises(ValueError, match=message):
            sample(of_x, x, "ddim", 4, mu=mu)
    with pytest.raises(ValueError, match="has no mean: leave `mu` away"):
        sample(of_y, x, "ddim", 4, mu=MU)
    assert of_x.nfe == of_y.nfe == 0
    with pytest.raises(ValueError, match="needs the mean it reverts to"):
        lower(build("ddim", WIDE, 4), "epsilon")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.0, "cosine", 0.005), "`lam_inf` must be a positive number; got 0.0"),
        ((float("nan"), "cosine", 0.005), "`lam_inf`"),
        ((0.1, "sine", 0.005), "`theta` must be one of 'cosine', 'linear', 'constant'; got 'sine'"),
        ((0.1, "cosine", 1.0), r"`delta`, the alpha at t = 1, must be in \(0, 1\); got 1.0"),
    ],
)
def test_a_wrong_process_is_refused(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseSchedule.mean_reverting(*values)
