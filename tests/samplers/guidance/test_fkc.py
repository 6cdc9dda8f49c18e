"""Weighted particles against densities known by quadrature: powers, products and quotients of mixtures, tilts by a reward."""

import numpy as np
import pytest
import torch
from particles import (
    EDM,
    FIRST,
    LONG,
    OTHER,
    PLANE,
    SECOND,
    SHORT,
    TARGETS,
    distance,
    drawn,
    log_density,
    log_target,
    networks,
    rng,
)
from problems import Gaussian, Mixture

from fewstep import Denoiser, NoiseSchedule, sample
from fewstep.samplers import guidance


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.slow
def test_weighted_particles_have_the_target_s_law(name):
    mixtures, exponents = TARGETS[name]
    target = guidance.fkc(networks(mixtures), exponents)
    exact = lambda x: log_target(mixtures, exponents, x)  # noqa: E731
    options = {"tau": 1.75} if sum(exponents) > 1 else {}  # less noise, and weights have no finite variance
    weighted = distance(*drawn(target, (8000, 1), **options), exact)
    plain = distance(*drawn(guidance.fkc(networks(mixtures), exponents, ess=0), (8000, 1), hook=False), exact)
    assert weighted < 0.035 and weighted < 0.6 * plain
    assert 0 < target.effective.min() <= 8000 and target.effective.shape == target.resampled.shape == (60, 1)


CFG = {
    "ddim": {"eta": 1.0},
    "ddim at 0.5": {"eta": 0.5},
    "dpmpp_2m_sde": {},
    "er_sde": {},
    "seeds": {},
    "dpmpp_sde": {},
    "sa_solver": {},
    "flow_sde": {},
    "dpmpp_2m": {"ess": 0},
    "heun": {"ess": 0},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CFG)
def test_any_table_and_any_noise_samples_the_target(name):
    options = dict(CFG[name])
    mixtures, exponents = [FIRST, SECOND], [2.0, -1.0]
    target = guidance.fkc(networks(mixtures), exponents, ess=options.pop("ess", 0.95))
    x0, weights = drawn(target, (8000, 1), name.split()[0], 50, **options)
    exact = lambda x: log_target(mixtures, exponents, x)  # noqa: E731
    assert distance(x0, weights, exact) < 0.035
    assert bool(target.resampled.any()) == (target.rules.ess > 0)
    if name in ("ddim", "dpmpp_2m"):
        assert distance(*drawn(target, (8000, 1), name, 50, hook=False, **options), exact) > 0.055


PLACES = {
    "vp": (NoiseSchedule.vp_linear(), ("epsilon", "v_prediction"), {}),
    "discrete": (NoiseSchedule.discrete(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))), ("epsilon",), {}),
    "flow": (NoiseSchedule.flow(), ("flow_prediction",), {}),
    "ve": (NoiseSchedule.ve(0.01, 20.0), ("score", "sample"), {}),
    "flow from below": (NoiseSchedule.flow(), ("flow_prediction",), {"t_start": 0.98}),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_schedule_and_prediction(place):
    schedule, predictions, options = PLACES[place]
    exponents = [0.9, 0.6] if options else [1.6, -0.6]  # a sum other than 1 needs alpha > 0
    target = guidance.fkc(networks([SHORT, LONG], schedule, predictions), exponents, ess=0.8)
    x0, weights = drawn(target, (4000, 1), nfe=40, **options)
    assert distance(x0, weights, lambda x: log_target([SHORT, LONG], exponents, x), 5.0) < 0.04


@pytest.mark.parametrize("schedule", [EDM, NoiseSchedule.vp_linear(), NoiseSchedule.flow()])
@pytest.mark.parametrize(("on", "solver"), [("x0", "ddim"), ("x", "er_sde")])
def test_a_reward_tilts_the_density(schedule, on, solver):
    reward = lambda x: -0.8 * (x - 0.5).square().flatten(1).sum(1) + x.flatten(1).sin().sum(1)  # noqa: E731
    network = SHORT.denoiser(schedule, "flow_prediction" if schedule.kind == "flow" else "sample")
    target = guidance.fkc(network, reward=reward, on=on, ess=0.7)
    options = {"eta": 1.0} if solver == "ddim" else {}
    x0, weights = drawn(target, (3000, 1), solver, 40, **options)
    exact = lambda x: log_density(SHORT, x) + reward(torch.as_tensor(x)).numpy()  # noqa: E731
    assert distance(x0, weights, exact, 5.0) < 0.045
    if solver == "ddim":
        assert distance(*drawn(target, (3000, 1), solver, 40, hook=False, **options), exact, 5.0) > 0.05


def test_an_end_above_no_noise_counts_the_last_step():
    """Two Gaussians: the product of their densities at noise sigma is Gaussian, of known variance."""
    a, b, sigma = Gaussian(0.0, 0.5), Gaussian(0.0, 1.5), 0.4
    target = guidance.fkc(networks([a, b]), [0.5, 0.5], ess=0)
    x0, weights = drawn(target, (20000, 1), "dpmpp_2m_sde", 30, t_end=sigma)
    precision = 0.5 / (0.5**2 + sigma**2) + 0.5 / (1.5**2 + sigma**2)
    assert float((torch.as_tensor(weights) * x0[:, 0] ** 2).sum()) == pytest.approx(1 / precision, rel=0.03)


def test_one_density_alone_keeps_even_weights():
    target = guidance.fkc(networks([FIRST]), [1.0], ess=0)
    drawn(target, (16, 1))
    assert torch.equal(target.weights, torch.full((16,), 1 / 16, dtype=torch.float64))
    twice = guidance.fkc(networks([FIRST, FIRST]), [1.7, -0.7], ess=0)  # q^1.7 / q^0.7
    drawn(twice, (16, 1))
    assert torch.allclose(twice.weights, target.weights, rtol=1e-12)


def test_an_expert_twice_is_its_square():
    runs = [drawn(guidance.fkc(networks(m), b, ess=0.5), (64, 1)) for m, b in (([FIRST] * 2, None), ([FIRST], [2.0]))]
    assert torch.allclose(runs[0][0], runs[1][0]) and np.allclose(runs[0][1], runs[1][1])


def test_a_group_is_the_same_alone_and_among_others():
    mixtures, exponents, K = [PLANE, OTHER], [2.0, -1.0], 8
    noise = [[100 * g + i for i in range(K)] for g in range(3)]

    def run(groups):
        seeds = [s for g in groups for s in noise[g]]
        target = guidance.fkc(networks(mixtures), exponents, particles=K, seeds=groups, ess=0.9)
        x_T = target.initial_noise((len(seeds), 2), seeds=seeds)
        x0 = sample(target.denoiser, x_T, "dpmpp_2m_sde", 12, noise_seeds=seeds, hook=target)
        return x0, target.weights, target.resampled

    x0, weights, resampled = run([0, 1, 2])
    assert resampled.any(0).all()
    for g in range(3):
        alone = run([g])
        assert torch.equal(alone[0], x0[g * K : (g + 1) * K]) and torch.equal(alone[1], weights[g * K : (g + 1) * K])
        assert torch.equal(alone[2][:, 0], resampled[:, g])
    assert torch.allclose(weights.view(3, K).sum(1), torch.ones(3, dtype=torch.float64))


def test_a_second_run_starts_afresh_and_leaves_the_denoisers_alone():
    parts = networks([FIRST, SECOND])
    before = [dict(vars(one)) for one in parts]
    target = guidance.fkc(parts, [2.0, -1.0])
    first, again = drawn(target, (32, 1), nfe=12), drawn(target, (32, 1), nfe=12)
    assert torch.equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    after = [dict(vars(one)) for one in parts]
    assert [one.pop("nfe") for one in after] == [24, 24] and target.denoiser.nfe == 24
    assert after == [{k: v for k, v in one.items() if k != "nfe"} for one in before]


def test_the_initial_law():
    for schedule, variance in ((EDM, 200.0), (NoiseSchedule.vp_linear(), 0.5)):
        target = guidance.fkc(networks([FIRST, FIRST], schedule))
        assert target.initial_noise((40000,), rng(0)).var().item() == pytest.approx(variance, rel=0.03)
        assert target.initial_noise((4000,), seeds=range(4000)).var().item() == pytest.approx(variance, rel=0.07)
    alone = target.initial_noise((1, 2, 3), seeds=[7])
    assert torch.equal(target.initial_noise((2, 2, 3), seeds=[6, 7])[1:], alone)
    low = guidance.fkc(networks([FIRST], NoiseSchedule.flow())).initial_noise((40000,), rng(0), t_start=0.5)
    assert low.std().item() == pytest.approx(0.5, rel=0.03)


def test_clamping_is_reported():
    free, bound = (guidance.fkc(networks([FIRST]), [2.0], clamp=clamp) for clamp in (None, 0.01))
    for target in (free, bound):
        drawn(target, (64, 1), nfe=20)
    assert free.clamped is None and 0 < bound.clamped < 1


class Broken(Mixture):
    def predict(self, x, alpha, sigma):
        x0, eps = super().predict(x, alpha, sigma)
        return x0 * (float("inf") if sigma < 1e-3 else 1.0), eps


ONE = [FIRST.denoiser(EDM)]
WRONG = {
    "1 finite numbers": lambda: guidance.fkc(ONE, [1.0, 1.0]),
    "at least one Denoiser": lambda: guidance.fkc([], []),
    r"denoisers\[1\]` must be a Denoiser": lambda: guidance.fkc([ONE[0], 3]),
    r"denoisers\[1\] has": lambda: guidance.fkc([ONE[0], FIRST.denoiser(NoiseSchedule.edm())]),
    "more than 0": lambda: guidance.fkc(ONE, [-1.0]),
    "mean-reverting": lambda: guidance.fkc(Denoiser(lambda x, t: x, NoiseSchedule.mean_reverting())),
    "not Gaussian": lambda: guidance.fkc(Denoiser(lambda x, t: x, NoiseSchedule.pfgm(), "sample")),
    "`on` must be": lambda: guidance.fkc(ONE, on="eps"),
    "`reward`": lambda: guidance.fkc(ONE, reward=3.0),
    "`method`": lambda: guidance.fkc(ONE, method="lottery"),
    "`ess`": lambda: guidance.fkc(ONE, ess=2.0),
    "`clamp`": lambda: guidance.fkc(ONE, clamp=0.0),
    "`particles`": lambda: guidance.fkc(ONE, particles=0),
    "init_process_group": lambda: guidance.fkc(ONE, across=True),
    "one particle": lambda: drawn(guidance.fkc(ONE), (1, 1)),
    "one particle cannot": lambda: drawn(guidance.fkc(ONE, particles=1), (4, 1)),
    "no whole number": lambda: drawn(guidance.fkc(ONE, particles=3), (4, 1)),
    "1 seeds for 2": lambda: drawn(guidance.fkc(ONE, particles=2, seeds=[1]), (4, 1)),
    "draws no noise": lambda: drawn(guidance.fkc(ONE), (4, 1), "dpmpp_2m"),
    "goes back up": lambda: drawn(guidance.fkc(ONE), (4, 1), "restart", 40, intervals=((2, 1, 0.3, 5.0),)),
    "alpha = 0": lambda: drawn(guidance.fkc(networks([SHORT], NoiseSchedule.flow()), [2.0]), (4, 1), "ddim", eta=1.0),
    "no driver": lambda: drawn(guidance.fkc(ONE), (4, 1), "dpm_adaptive", None),
    "`post`": lambda: drawn(guidance.fkc(ONE), (4, 1), post=lambda x0: x0),
    "one differentiable number": lambda: drawn(guidance.fkc(ONE, reward=lambda x: x), (4, 1)),
    "no run": lambda: guidance.fkc(ONE).weights,
    "no run of": lambda: guidance.fkc(ONE).unweighted(torch.zeros(4, 1)),
    "not finite": lambda: drawn(guidance.fkc(ONE, reward=lambda x: x.sum(1) / 0.0), (4, 1), check="none"),
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_is_refused(words):
    with pytest.raises(ValueError, match=words):
        WRONG[words]()


def test_a_hook_needs_its_own_denoiser():
    target, other = guidance.fkc(ONE), guidance.fkc(ONE)
    with pytest.raises(ValueError, match="target.denoiser"):
        sample(other.denoiser, torch.zeros(4, 1), "ddim", 3, eta=1.0, hook=target)
    drawn(target, (4, 1), nfe=3, hook=False)  # a run that nobody weighed is not taken up by another
    with pytest.raises(ValueError, match="no driver"):
        drawn(target, (4, 1), "dpm_adaptive", None)
    with pytest.raises(ValueError, match="function of all"):
        sample(ONE[0], torch.zeros(4, 1), "dpm_adaptive", 40, hook=lambda seen: lambda v: v)


@pytest.mark.slow
def test_the_table():
    """Kolmogorov-Smirnov distances at 40,000 particles and 300 steps, each target with z = 1 and with tau = 1.75 (z = 3)."""
    rows = [(name, *TARGETS[name]) for name in TARGETS]
    rows += [("q1 q2, plane", [PLANE, OTHER], [1.0, 1.0]), ("q_c^2 q_u^-1, plane", [PLANE, OTHER], [2.0, -1.0])]
    print(f"\n{'target':22} {'tau':>4} {'weighted':>9} {'plain':>7} {'least ess':>10} {'resampled':>10}")
    for name, mixtures, exponents in rows:
        exact = lambda x, m=mixtures, b=exponents: log_target(m, b, x)  # noqa: E731
        dimensions, best = mixtures[0].means.shape[1], 1.0
        for tau in (1.0, 1.75):
            target = guidance.fkc(networks(mixtures), exponents)
            found = distance(*drawn(target, (40000, dimensions), nfe=300, tau=tau), exact)
            share, times = float(target.effective.min()) / 40000, int(target.resampled.sum())
            plain = distance(*drawn(target, (40000, dimensions), nfe=300, tau=tau, hook=False), exact)
            print(f"{name:22} {tau:4} {found:9.4f} {plain:7.4f} {share:10.3f} {times:10}", flush=True)
            best = found if sum(exponents) > 1 else min(best, found)
        assert best <= 0.02
