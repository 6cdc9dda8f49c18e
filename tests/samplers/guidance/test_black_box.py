"""Rewards without a gradient, that may fail: laws by weights alone, soft values, search over noise, and health."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from particles import EDM, FIRST, PLANE, SHORT, distance, drawn, log_density, networks, rng

from fewstep import Denoiser, NoiseSchedule, sample
from fewstep.samplers import guidance

TARGETS = {
    "a sine": lambda x: np.sin(3 * x[:, 0]) - 0.5 * (x[:, 0] - 0.5) ** 2,
    "a step": lambda x: 1.5 * (x[:, 0] > 0.3),
    "steps and a peak": lambda x: np.round(2 * x[:, 0]) / 2 + np.exp(-8 * (x[:, 0] + 1) ** 2),
}


def black(f):
    """A function of numpy arrays that sees no graph."""
    return lambda x: f(np.asarray(x.detach().numpy()))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [NoiseSchedule.vp_linear(), NoiseSchedule.flow()])
@pytest.mark.parametrize("name", TARGETS)
def test_weights_alone_sample_three_targets(name, schedule):
    network = SHORT.denoiser(schedule, "flow_prediction" if schedule.kind == "flow" else "sample")
    target = guidance.fkc(network, reward=black(TARGETS[name]), gradient=False)
    with torch.no_grad():
        x0, weights = drawn(target, (20000, 1), nfe=60)
    exact = lambda x: log_density(SHORT, x) + TARGETS[name](x)  # noqa: E731
    assert distance(x0, weights, exact, 5.0) <= 0.03 and target.health().healthy
    assert 1 < target.effective.min() <= 20000 and target.failed == 0


def test_a_failing_simulator_has_weight_zero_and_is_counted():
    def simulator(x):
        if len(x) > 1:
            raise RuntimeError("one at a time")
        if float(x) > 1.0:
            raise ArithmeticError("it broke")
        return np.array([np.nan if float(x) < -1.5 else 0.3 * float(x)])

    target = guidance.fkc(SHORT.denoiser(EDM), reward=simulator, gradient=False, ess=0.3)
    x0, weights = drawn(target, (64, 1), nfe=12)
    bad = ((x0 > 1.0) | (x0 < -1.5))[:, 0].numpy()
    assert bad.any() and (weights[bad] == 0).all() and (weights[~bad] > 0).all() and target.failed >= bad.sum()
    assert "failed rewards" in str(target.health())
    kept = target.unweighted(x0)
    assert not ((kept > 1.0) | (kept < -1.5)).any()


def test_a_group_whose_every_particle_failed_keeps_its_weights_and_is_told():
    def simulator(x):
        return [float("nan") if i < 8 else v for i, v in enumerate(x[:, 0].tolist())]

    target = guidance.fkc(SHORT.denoiser(EDM), reward=simulator, gradient=False, particles=8, ess=0)
    with pytest.warns(UserWarning, match="every particle of 1 of 2 groups"):
        _, weights = drawn(target, (16, 1), nfe=6)
    assert np.allclose(weights[:8], 1 / 8) and not np.allclose(weights[8:], 1 / 8) and not target.health().healthy
    with pytest.raises(ValueError, match="not finite"):
        drawn(
            guidance.fkc(SHORT.denoiser(EDM), reward=lambda x: [float("nan")] * len(x), gradient=False), (8, 1), nfe=4
        )


def test_soft_values_pick_one_of_k_at_every_step():
    value = black(lambda x: 6.0 * x[:, 0])
    how = {"particles": 4, "method": "one", "ess": 1.0, "stop": 0.0, "ramp": lambda lam: 1.0}
    target = guidance.fkc(SHORT.denoiser(EDM), reward=value, gradient=False, **how)
    x0, _ = drawn(target, (160, 1), nfe=12)
    one = target.unweighted(x0, 1)
    plain = sample(SHORT.denoiser(EDM), target.initial_noise((40, 1), rng(3)), "dpmpp_2m_sde", 12, generator=rng(4))
    assert len(one) == 40 and float(one.mean()) > float(plain.mean()) + 0.2
    assert target.resampled.all() and torch.allclose(target.lineages, torch.ones(40, dtype=torch.float64))
    assert not target.health().healthy  # a search, no law


def test_a_reward_is_of_decoded_images_and_lists_will_do():
    seen = []

    def reward(images):
        seen.append(images)
        return [float(np.mean(image)) for image in images]

    decode = lambda x: [np.tile(one, (2, 2)) for one in x.numpy()]  # noqa: E731
    target = guidance.fkc(SHORT.denoiser(EDM), reward=reward, gradient=False, decode=decode)
    drawn(target, (6, 1), nfe=4)
    assert seen[0][0].shape == (2, 2)
    with pytest.raises(ValueError, match="Denoiser.from_pipeline"):
        guidance.fkc(SHORT.denoiser(EDM), reward=reward, gradient=False, decode=True)


def test_what_a_reward_lacks_is_said():
    network = SHORT.denoiser(EDM)
    with pytest.raises(ValueError, match="no gradient in its argument.*gradient=False"):
        drawn(guidance.fkc(network, reward=lambda x: x.detach().sum(1)), (4, 1), nfe=4)
    with pytest.raises(ValueError, match=r"one number a sample, \(4,\); got shape \(4, 1\)"):
        drawn(guidance.fkc(network, reward=lambda x: x, gradient=False), (4, 1), nfe=4)
    with pytest.raises(ValueError, match="raised for every particle.*broken"):
        drawn(
            guidance.fkc(
                network, reward=lambda x: 1 / 0 if x is None else exec("raise OSError('broken')"), gradient=False
            ),
            (4, 1),
            nfe=4,
        )
    with pytest.raises(ValueError, match="of a reward"):
        guidance.fkc(network, gradient=False)
    with torch.no_grad():  # with a gradient too, as the README samples
        drawn(guidance.fkc(network, reward=lambda x: -x.square().sum(1)), (8, 1), nfe=6)


def test_best_of_n_and_a_search_near_the_best():
    network, x_T = SHORT.denoiser(EDM), EDM.initial_noise((16, 1), rng(0), dtype=torch.float64)
    reward = black(lambda x: -np.abs(x[:, 0] - 0.35))
    best, found = (guidance.best_of(network, x_T, reward, 4, nfe=6, rounds=rounds) for rounds in (0, 5))
    one = sample(network, x_T, "dpmpp_2m", 6)
    assert (best.rewards >= torch.as_tensor(reward(one))).all() and (found.rewards >= best.rewards).all()
    assert found.rewards.mean() > best.rewards.mean() and found.calls == 4 * 6 * 6 and found.history.shape == (6, 16)
    assert torch.equal(sample(network, found.x_T, "dpmpp_2m", 6), found.x0)
    half = guidance.best_of(network, x_T[8:], reward, 4, nfe=6, rounds=5, seeds=range(8, 16))
    assert torch.allclose(half.x0, found.x0[8:])
    fails = guidance.best_of(network, x_T, lambda x: [np.nan if v > 0 else -v for v in x[:, 0].tolist()], 8, nfe=4)
    assert fails.failed > 0 and (fails.x0 <= 0).all()
    with pytest.raises(ValueError, match="every noise"):
        guidance.best_of(network, x_T, lambda x: [np.nan] * len(x), 2, nfe=4)


def squared(x):
    return x.square().sum(1, keepdim=True)


def posterior(noise_std, particles, nfe=100, **how):
    target = guidance.twisted(PLANE.denoiser(EDM), torch.tensor([1.0]), squared, noise_std=noise_std, width=2.0, **how)
    x0, weights = drawn(target, (particles, 2), nfe=nfe)
    exact = lambda x: log_density(PLANE, x) - (1 - (x**2).sum(1)) ** 2 / (2 * noise_std**2)  # noqa: E731
    return distance(x0, weights, exact, 5.0), target.health(x0[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize("gradient", [True, False])
def test_a_posterior_that_is_not_linear_is_sampled_and_believed(gradient):
    far, health = posterior(0.3, 8000, gradient=gradient)
    assert far < 0.04 and health.healthy and health.error < 0.05


def test_a_likelihood_too_sharp_for_so_few_is_not_to_be_believed():
    far, health = posterior(0.003, 200, nfe=20, gradient=False)
    assert far > 0.1 and not health.healthy and "not to be believed" in str(health)
    assert health.lineages < 20


def test_lineages_tell_the_error_of_a_mean():
    errors, found = [], []
    for seed in range(6):
        target = guidance.fkc(FIRST.denoiser(EDM), [1.0], reward=lambda x: 0.5 * x[:, 0], on="x", seeds=seed)
        x0, _ = drawn(target, (400, 1), nfe=20, seed=10 * seed)
        health = target.health(x0[:, 0])
        errors.append(health.error)
        found.append(health.mean)
    assert 0.3 < np.std(found) / np.mean(errors) < 3.0
    with pytest.raises(ValueError, match="one number a particle"):
        target.health(x0)


def test_bad_input():
    with pytest.raises(ValueError, match="noise_std"):
        guidance.twisted(PLANE.denoiser(EDM), torch.ones(1), squared, noise_std=0.0)
    with pytest.raises(ValueError, match="shape"):
        drawn(guidance.twisted(PLANE.denoiser(EDM), torch.ones(3), squared, noise_std=0.1), (4, 2), nfe=4)
    with pytest.raises(ValueError, match="`n`"):
        guidance.best_of(networks([FIRST])[0], torch.zeros(2, 1), lambda x: x[:, 0], 0)
    assert isinstance(networks([FIRST])[0], Denoiser)
