"""Models of parts of a state, as one: independent bodies, links of a Gaussian chain, tiles; gaps and overlaps are refused."""

import pytest
import torch
from particles import EDM, rng
from problems import Gaussian

from fewstep import Denoiser, NoiseSchedule, sample
from fewstep.samplers import guidance

CHAIN = torch.tensor(  # x1 - x2 - x3 - x4: neighbours are correlated by 0.8 and -0.6 and 0.5, others through them
    [[1.0, 0.8, -0.48, -0.24], [0.8, 1.0, -0.6, -0.3], [-0.48, -0.6, 1.0, 0.5], [-0.24, -0.3, 0.5, 1.0]],
    dtype=torch.float64,
)
MEAN = torch.tensor([0.5, -0.3, 0.2, 0.8], dtype=torch.float64)
PAIRS = [slice(0, 2), slice(1, 3), slice(2, 4)]
SHARED = [slice(1, 2), slice(2, 3)]


def gaussian(where, schedule=EDM, prediction="epsilon"):
    """The exact network of some entries of the chain."""
    C, m = CHAIN[where, where], MEAN[where]

    def fn(x, tau):
        t = float(schedule.time_of_model(float(tau)))
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        S = alpha**2 * C + sigma**2 * torch.eye(len(C), dtype=C.dtype)
        eps = sigma * torch.linalg.solve(S, (x.to(C) - alpha * m).T).T
        found = eps if prediction == "epsilon" else (x.to(C) - sigma * eps) / alpha
        return found.to(x.dtype)

    return Denoiser(fn, schedule, prediction)


def moments(x, weights):
    m = (weights[:, None] * x).sum(0)
    return m, ((x - m).T * weights) @ (x - m)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [EDM, NoiseSchedule.vp_linear()])
def test_a_chain_of_pairs_is_exact_by_weighted_particles(schedule):
    pieces = [(gaussian(w, schedule), w) for w in PAIRS] + [(gaussian(w, schedule), w) for w in SHARED]
    chain = guidance.parts(pieces, exponents=[1, 1, 1, -1, -1])
    target = guidance.fkc(chain, ess=0.8)
    x_T = target.initial_noise((40000, 4), rng(0), dtype=torch.float64)
    x0 = sample(target.denoiser, x_T, "dpmpp_2m_sde", 200, generator=rng(1), hook=target)
    m, C = moments(x0, target.weights)
    assert (m - MEAN).abs().max() < 0.02 and (C - CHAIN).abs().max() < 0.05 and target.health().healthy
    plain = sample(chain, x_T, "dpmpp_3m", 60)
    _, wrong = moments(plain, torch.full((40000,), 1 / 40000, dtype=torch.float64))
    assert (wrong - CHAIN).abs().max() > (C - CHAIN).abs().max()


@pytest.mark.parametrize("predictions", [("epsilon", "sample"), ("sample", "sample")])
@pytest.mark.parametrize("schedule", [EDM, NoiseSchedule.flow(), NoiseSchedule.vp_linear()])
def test_parts_that_do_not_touch_are_sampled_as_alone(schedule, predictions):
    if schedule.kind == "flow" and predictions[0] == "epsilon":
        schedule = NoiseSchedule.vp_linear()  # there is no eps at alpha = 0 ... nor x0 of it
    two = guidance.parts([(gaussian(w, schedule, p), w) for w, p in zip(PAIRS[::2], predictions, strict=True)])
    x_T = schedule.initial_noise((64, 4), rng(0), dtype=torch.float64)
    t_start = {"t_start": 0.99} if schedule.kind == "flow" else {}
    both = sample(two, x_T, "dpmpp_2m", 8, **t_start)
    for w, p in zip(PAIRS[::2], predictions, strict=True):
        alone = sample(gaussian(w, schedule, p), x_T[:, w], "dpmpp_2m", 8, **t_start)
        assert (both[:, w] - alone).abs().max() < 1e-8


def test_tiles_with_overlap_are_averaged_and_agree_where_models_do():
    one = Gaussian(0.3, 0.7)
    tiles = [
        (one.denoiser(EDM, "sample"), (slice(None), slice(a, a + 8), slice(b, b + 8)))
        for a in (0, 4)
        for b in (0, 4, 8)
    ]
    wide = guidance.parts(tiles, (3, 12, 16), overlap="mean")
    x_T = EDM.initial_noise((2, 3, 12, 16), rng(0), dtype=torch.float64)
    assert (sample(wide, x_T, "dpmpp_2m", 6) - sample(one.denoiser(EDM), x_T, "dpmpp_2m", 6)).abs().max() < 1e-9
    with pytest.raises(ValueError, match=r"samples of shape \(3, 12, 16\)"):
        sample(wide, x_T[..., :8], "dpmpp_2m", 6)


def test_an_objective_goes_around_them():
    two = guidance.parts([(gaussian(w), w) for w in PAIRS[::2]])
    x_T = EDM.initial_noise((32, 4), rng(0), dtype=torch.float64)
    touch = guidance.energy(two, lambda x0: (x0[:, 1] - x0[:, 2]).square(), 2.0)
    gap = lambda x: (x[:, 1] - x[:, 2]).square().mean()  # noqa: E731
    assert gap(sample(touch, x_T, "dpmpp_2m", 12)) < 0.7 * gap(sample(two, x_T, "dpmpp_2m", 12))


A, B = gaussian(PAIRS[0]), gaussian(SHARED[0])
WRONG = {
    "leave gaps.*entry \\(2,\\)": lambda: guidance.parts([(A, slice(0, 2)), (B, slice(3, 4))]),
    "leave gaps": lambda: guidance.parts([(A, slice(0, 2))], (4,)),
    "overlap, first at entry \\(1,\\)": lambda: guidance.parts([(A, slice(0, 2)), (A, slice(1, 3))]),
    "sum to 1 over": lambda: guidance.parts([(A, slice(0, 2)), (A, slice(1, 3))], exponents=[1, 1]),
    "2 finite numbers": lambda: guidance.parts([(A, slice(0, 2)), (A, slice(1, 3))], exponents=[1]),
    "goes without": lambda: guidance.parts([(A, slice(0, 2))], exponents=[1], overlap="mean"),
    "holds nothing": lambda: guidance.parts([(A, slice(0, 2)), (A, slice(4, 6))], (4,)),
    "slice has no end": lambda: guidance.parts([(A, slice(0, None))]),
    "must be a slice": lambda: guidance.parts([(A, 3)]),
    "pairs of a denoiser": lambda: guidance.parts([A]),
    "own exponents": lambda: guidance.fkc(guidance.parts([(A, slice(0, 2))]), [1.0]),
    "no product of densities": lambda: guidance.fkc(guidance.parts([(A, slice(0, 2))], overlap="mean")),
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_is_refused(words):
    with pytest.raises(ValueError, match=words):
        WRONG[words]()
