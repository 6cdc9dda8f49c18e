"""Samplers of networks that answer with data: their rows as the papers write them, and where they meet each other."""

import numpy as np
import pytest
import torch
from problems import Gaussian

from fewstep import Denoiser, NoiseSchedule, build, sample

VP, EDM, FLOW = NoiseSchedule.vp_linear(), NoiseSchedule.edm(), NoiseSchedule.flow()
SD = NoiseSchedule.from_config({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012})


@pytest.mark.parametrize("schedule", [VP, EDM, FLOW, SD, NoiseSchedule.vp_cosine()], ids=str)
def test_tcd_runs_from_ddim_to_renoise(schedule):
    grid = build("ddim", schedule, 6).times
    np.testing.assert_allclose(build("tcd", schedule, grid=grid, gamma=0.0).W, build("ddim", schedule, grid=grid).W)
    full = build("tcd", schedule, grid=grid, gamma=1.0)
    if schedule is not SD:  # whose training steps end at one of sigma > 0
        renoise = build("renoise", schedule, grid=grid)
        np.testing.assert_allclose(full.W[:-1], renoise.W[:-1], atol=1e-12)
    assert full.stochastic and len(full.jumps) in (0, 5)


def test_tcd_lands_on_whole_training_steps():
    """x_s by DDIM at step floor((1 - gamma) 499) = 349, x = sqrt(a_499 / a_349) x_s + sqrt(1 - a_499 / a_349) z."""
    abar = SD.alphas_cumprod
    a, b, c = (abar[k] for k in (999, 349, 499))
    table = build("tcd", SD, grid=SD.time_of_model(np.array([999.0, 499.0, 0.0])), gamma=0.3)
    q = np.sqrt((1 - b) / (1 - a))
    up = np.sqrt(c / b)
    want = [up * q, up * (np.sqrt(b) - np.sqrt(a) * q), np.sqrt(1 - c / b)]
    np.testing.assert_allclose(table.W[0, 1, 1:4], want, atol=1e-12)
    assert not table.W[1, 1, 3]  # no noise in the last step


def test_consistency_counts_the_level_of_its_answers():
    """x = D + sqrt(sigma^2 - sigma_min^2) z: the second moment is right where D is a sample of level sigma_min."""
    table = build("consistency", EDM, 3)
    sigma = table.times
    np.testing.assert_allclose(table.W[:2, 1, 3], np.sqrt(sigma[1:3] ** 2 - 0.002**2))
    np.testing.assert_allclose(table.W[:, 1, 2], 1.0)
    assert not table.W[2, 1, 3]
    half = build("consistency", EDM, 3, s_noise=0.5)
    np.testing.assert_allclose(half.W[:2, 1, 3], 0.5 * table.W[:2, 1, 3])


def test_a_consistency_model_gives_its_data_in_any_number_of_steps():
    """The exact consistency function of Gaussian data, along the flow to sigma_min: the deviation stays that of the data."""
    mean, std, low = 0.5, 0.6, 0.002

    def network(x, sigma):
        s = float(sigma)
        return mean + (x - mean) * ((std**2 + low**2) / (std**2 + s**2)) ** 0.5

    x = 80 * torch.randn(20000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for n in (1, 2, 4, 8):
        end = sample(Denoiser(network, EDM, "sample"), x, "consistency", n)
        assert abs(float(end.std()) / std - 1) < 0.02 and abs(float(end.mean()) - mean) < 0.03


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_angles_are_a_schedule(scale):
    schedule = NoiseSchedule.from_config({"_class_name": "SCMScheduler", "sigma_data": scale})
    t = np.linspace(1e-3, np.pi / 2, 50)
    np.testing.assert_allclose(schedule.t_of_lam(schedule.lam(t)), t, atol=1e-9)
    np.testing.assert_allclose(schedule.alpha(t) ** 2 + (schedule.sigma(t) / scale) ** 2, 1.0)
    assert schedule.alpha(np.pi / 2) == 0 and schedule.lam(0.0) == np.inf
    x_T = schedule.initial_noise((50000,), torch.Generator().manual_seed(0), dtype=torch.float64)
    assert abs(float(x_T.std()) - scale) < 0.01
    problem = Gaussian(0.3, 0.4)
    x = x_T[:32].reshape(8, 4)

    def network(x, t):
        a, s = float(schedule.alpha(float(t))), float(schedule.sigma(float(t)))
        x0, eps = problem.predict(x, a, s)
        return scale * a * eps - s / scale * x0  # dx/dt

    denoiser = Denoiser(network, schedule, "trigflow")
    right = problem.flow(schedule, x, np.pi / 2, 0.0)
    errors = [float((sample(denoiser, x, "ddim", n) - right).norm() / right.norm()) for n in (20, 40, 80)]
    assert errors[2] < errors[0] / 3.5 and errors[2] < 0.03
