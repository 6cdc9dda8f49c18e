"""Likelihoods: closed forms on every schedule, unit mass, unbiased traces, orders, gradients, and refusals."""

import math
import weakref

import numpy as np
import pytest
import torch
from problems import PREDICTIONS, Gaussian, Mixture

from fewstep.adjoint.likelihood.log_density import log_likelihood
from fewstep.adjoint.likelihood.quantised_bits import bits_per_dim
from fewstep.samplers import Denoiser, NoiseSchedule

SCHEDULES = {"vp": NoiseSchedule.vp_linear(), "edm": NoiseSchedule.edm(), "flow": NoiseSchedule.flow()}
VP = SCHEDULES["vp"]
EVERY = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def log_density(data, x, alpha=1.0, sigma=0.0):
    """Closed-form log density of alpha x0 + sigma eps."""
    variance = (alpha**2 * data.variances + sigma**2)[:, 0]
    square = (x.flatten(1)[:, None] - alpha * data.means).square().sum(-1)
    d = x[0].numel()
    return (data.log_weights - 0.5 * square / variance - 0.5 * d * (2 * math.pi * variance).log()).logsumexp(1)


def prior(data, schedule):
    """The law that data really have at t_max."""
    t = schedule.t_max
    return lambda x: log_density(data, x, float(schedule.alpha(t)), float(schedule.sigma(t)))


def at_noise(schedule, rho):
    """The time with sigma / alpha = rho."""
    return float(schedule.t_of_lam(-math.log(rho)))


def points(data, n, seed=0, shape=(2,)):
    """Samples of the data, (n, *shape) float64."""
    generator = torch.Generator().manual_seed(seed)
    k = torch.multinomial(data.log_weights.exp(), n, replacement=True, generator=generator)
    z = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    mean, std = (
        v[k].view(n, *(v.shape[1:] if len(shape) == 1 else (1,) * len(shape)))
        for v in (data.means, data.variances.sqrt())
    )
    return mean + std * z


def mixture(schedule, n=8, prediction="v_prediction"):
    """(data, denoiser, points, prior)."""
    data = Mixture()
    return data, data.denoiser(schedule, prediction), points(data, n), prior(data, schedule)


@EVERY
def test_gaussian_of_any_shape(schedule):
    data = Gaussian()
    x = points(data, 8, shape=(1, 2, 2))
    got = log_likelihood(
        data.denoiser(schedule, "sample"), x, 800, "rk4", t_end=at_noise(schedule, 1e-2), prior=prior(data, schedule)
    )
    torch.testing.assert_close(got, log_density(data, x, 1.0, 1e-2), rtol=0, atol=1e-6)


@EVERY
def test_mixture_with_sixty_evaluations(schedule):
    data, denoiser, x, law = mixture(schedule, 200)
    got, info = log_likelihood(denoiser, x, t_end=at_noise(schedule, 3e-4), prior=law, return_info=True)
    assert denoiser.nfe == info.nfe == 60 and info.stderr is None
    assert info.noise == pytest.approx(3e-4) and "density of x0 + 0.0003 eps" in str(info)
    torch.testing.assert_close(got, log_density(data, x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_says_the_same(prediction):
    data, denoiser, x, law = mixture(VP, prediction=prediction)
    got = log_likelihood(denoiser, x, 120, prior=law)
    torch.testing.assert_close(got, log_density(data, x, 1.0, float(np.exp(-VP.lam(VP.t_min)))), rtol=0, atol=1e-5)


def test_clean_end_is_extrapolated_from_the_least_noise():
    data, denoiser, x, law = mixture(VP, 50)
    truth, smooth, clean = (
        log_density(data, x),
        *(log_likelihood(denoiser, x, 120, t_end=t, prior=law) for t in (None, 0)),
    )
    assert (smooth - truth).abs().max() > 1e-3
    assert (clean - truth).abs().max() < 3e-5
    (_, default), (_, at_data) = (
        log_likelihood(denoiser, x, 60, t_end=t, prior=law, return_info=True) for t in (None, 0)
    )
    assert default.t_end == VP.t_min and default.noise == pytest.approx(float(np.exp(-VP.lam(VP.t_min))))
    assert at_data.noise == at_data.t_end == 0 and str(at_data).startswith("the density of x0,")


def test_mass_is_one_whatever_the_prior():
    side = torch.linspace(-3, 3, 61, dtype=torch.float64)
    x = torch.cartesian_prod(side, side)
    got = log_likelihood(Mixture().denoiser(VP), x, 40, "adams4")
    assert abs(float(got.exp().sum()) * 0.1**2 - 1) < 1e-3


def test_first_law_is_that_of_sampling():
    schedule, x = SCHEDULES["edm"], torch.zeros(1, 3, dtype=torch.float64)
    got, info = log_likelihood(Gaussian(0.0, 1.0).denoiser(schedule), x, 7, return_info=True)
    assert torch.equal(info.x_T, x)
    # a Gaussian at its mode: only the volume is left, off by the variance that the default prior leaves out
    exact = log_density(Gaussian(0.0, 1.0), x, 1.0, schedule.t_min)
    wide = log_likelihood(Gaussian(0.0, 1.0).denoiser(schedule), x, 400, "rk4")
    torch.testing.assert_close(wide - exact, torch.full_like(exact, 1.5 * math.log1p(80.0**-2)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_random_traces_are_unbiased(distribution):
    _, denoiser, x, _ = mixture(VP, 1)
    how = {"nfe": 24, "solver": "adams4"}
    exact = log_likelihood(denoiser, x, **how)
    many = log_likelihood(
        denoiser, x.expand(600, 2), trace="hutchinson", distribution=distribution, seeds=range(600), **how
    )
    assert many.std() > 1e-3
    assert abs(many.mean() - exact) < 3 * many.std() / 600**0.5


def test_probes_are_averaged_and_their_spread_is_told():
    _, denoiser, x, _ = mixture(VP, 2)
    how = {"nfe": 12, "solver": "adams4", "trace": "hutchinson", "distribution": "gaussian", "return_info": True}
    got, info = log_likelihood(denoiser, x, probes=200, seeds=[1, 2], **how)
    one, alone = log_likelihood(denoiser, x, seeds=[1, 2], **how)
    assert alone.stderr is None and info.nfe == 12
    exact = log_likelihood(denoiser, x, 12, "adams4")
    assert ((got - exact).abs() < 4 * info.stderr).all() and ((got - exact).abs() < (one - exact).abs().max()).all()
    spread = log_likelihood(denoiser, x[:1].expand(400, 2), seeds=range(400), **how)[0].std()
    assert abs(info.stderr[0] / (spread / 200**0.5) - 1) < 0.2


@pytest.mark.parametrize("solver", ["adams6", "rk4"])
def test_a_sample_is_the_same_alone_in_a_batch_and_in_chunks(solver):
    _, denoiser, x, _ = mixture(VP, 5)
    how = {"nfe": 20, "solver": solver, "trace": "hutchinson", "distribution": "gaussian"}
    batch = log_likelihood(denoiser, x, seeds=[5, 6, 7, 8, 9], **how)
    alone = log_likelihood(denoiser, x[3:4], seeds=[8], **how)
    chunks = log_likelihood(denoiser, x, seeds=[5, 6, 7, 8, 9], chunk=2, **how)
    torch.testing.assert_close(batch[3:4], alone, rtol=0, atol=1e-11)
    torch.testing.assert_close(batch, chunks, rtol=0, atol=1e-11)
    assert (batch[3] - log_likelihood(denoiser, x[3:4], seeds=[9], **how)).abs() > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver, order, nfe", [("euler", 1, 80), ("midpoint", 2, 80), ("heun", 2, 80), ("rk4", 4, 160), ("adams4", 4, 60)]
)
def test_order(solver, order, nfe):
    _, denoiser, x, law = mixture(VP, 20)
    exact = log_likelihood(denoiser, x, 400, prior=law)
    coarse, fine = (
        (log_likelihood(denoiser, x, n, solver, prior=law) - exact).square().mean().sqrt() for n in (nfe, 2 * nfe)
    )
    assert abs(math.log2(coarse / fine) - order) < 0.4


def test_adams_of_order_six_beats_runge_kutta_fifty_times():
    _, denoiser, x, law = mixture(VP, 20)
    exact = log_likelihood(denoiser, x, 400, prior=law)
    six, four = ((log_likelihood(denoiser, x, 120, s, prior=law) - exact).abs().max() for s in ("adams6", "rk4"))
    assert six < four / 50


def test_leftover_evaluations_stay_unspent():
    _, denoiser, x, _ = mixture(VP, 1)
    a, info = log_likelihood(denoiser, x, 43, "rk4", return_info=True)
    assert info.nfe == 40 and torch.equal(a, log_likelihood(denoiser, x, 40, "rk4"))


def test_adaptive_steps_agree():
    data, denoiser, x, law = mixture(VP)
    how = {"prior": law, "t_end": at_noise(VP, 3e-4)}
    got, info = log_likelihood(denoiser, x, None, "rk45", rtol=1e-7, atol=1e-7, return_info=True, **how)
    loose = log_likelihood(denoiser, x, None, "rk45", rtol=1e-3, atol=1e-3, **how)
    torch.testing.assert_close(got, log_likelihood(denoiser, x, 300, **how), rtol=0, atol=1e-6)
    assert 100 < info.nfe < 400 and 1e-5 < (loose - got).abs().max() < 0.1
    with pytest.raises(ValueError, match="allow more"):
        log_likelihood(denoiser, x, 20, "rk45")


def test_adaptive_steps_watch_the_log_density_where_the_state_rests():
    data, x = Mixture([[1.0], [-1.0]], [0.1, 0.1], [0.5, 0.5]), torch.zeros(1, 1, dtype=torch.float64)
    denoiser, how = data.denoiser(VP), {"rtol": 1e-6, "atol": 1e-6, "prior": prior(data, VP)}
    got, info = log_likelihood(denoiser, x, None, "rk45", return_info=True, **how)
    assert torch.equal(info.x_T, x)
    torch.testing.assert_close(got, log_density(data, x, 1.0, float(np.exp(-VP.lam(VP.t_min)))), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("grid", ["logsnr", "flow", lambda s, n, a, b: np.linspace(a, b, n + 1) ** 1.0])
def test_any_grid(grid):
    _, denoiser, x, law = mixture(VP, 4)
    exact = log_likelihood(denoiser, x, 400, prior=law)
    torch.testing.assert_close(log_likelihood(denoiser, x, 300, grid=grid, prior=law), exact, rtol=0, atol=1e-4)
    times = np.geomspace(1.0, 1e-3, 201)
    torch.testing.assert_close(log_likelihood(denoiser, x, 206, grid=times, prior=law), exact, rtol=0, atol=1e-4)


def test_gradient_is_the_score():
    data, denoiser, x, law = mixture(VP, 20)
    a, b = (x.clone().requires_grad_() for _ in range(2))
    log_likelihood(denoiser, a, 60, t_end=at_noise(VP, 3e-4), prior=law).sum().backward()
    log_density(data, b).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)


def test_gradient_of_weights():
    x, inner = torch.tensor([[0.5, 0.1]], dtype=torch.float64), Gaussian().denoiser(VP).fn

    def value(w):
        return log_likelihood(Denoiser(lambda x, t: w * inner(x, t), VP), x, 20).sum()

    w = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(value(w), w)
    step = 1e-5
    with torch.no_grad():
        difference = (value(w + step) - value(w - step)) / (2 * step)
    assert abs(difference - slope) < 1e-6 * abs(slope)


class Mark:
    """Lives as long as the graph it is hung on."""


def test_no_graph_is_kept_unless_asked_for():
    x, marks, most = points(Mixture(), 2), [], []
    net = torch.nn.Linear(2, 2).double()

    def fn(x, t):
        most.append(sum(mark() is not None for mark in marks))
        out, mark = net(x).tanh(), Mark()
        out.grad_fn.metadata["mark"] = mark
        marks.append(weakref.ref(mark))
        return out

    denoiser = Denoiser(fn, VP)
    with torch.no_grad():
        assert not log_likelihood(denoiser, x, 20).requires_grad
    assert max(most) == 0
    assert log_likelihood(denoiser, x, 20).requires_grad
    assert max(most) == 19
    net.requires_grad_(False)
    most.clear()
    assert not log_likelihood(denoiser, x, 20).requires_grad
    assert max(most) == 0


class Looped(torch.autograd.Function):
    """2 sin x, of which autograd.grad cannot take many products at a time."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 2 * x.sin()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(g.detach().numpy()) * 2 * x.cos()


def test_networks_that_cannot_be_batched_are_looped_over():
    x = points(Mixture(), 3)
    with torch.no_grad():
        a, b = (
            log_likelihood(Denoiser(fn, VP), x, 20) for fn in (lambda x, t: 2 * x.sin(), lambda x, t: Looped.apply(x))
        )
    torch.testing.assert_close(a, b)


def test_half_precision_and_learned_variance():
    data, _, x, _ = mixture(VP)
    exact = log_likelihood(data.denoiser(VP), x, 40)
    single = log_likelihood(data.denoiser(VP), x.float(), 40)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-3)
    half = log_likelihood(data.denoiser(VP), x.bfloat16(), 40)
    assert half.dtype == torch.float32 and (half - exact).abs().max() < 1
    assert torch.equal(log_likelihood(data.denoiser(VP, learned_variance=True), x, 40), exact)


def test_bits_of_quantised_gaussians():
    data, delta = Gaussian(0.0, 0.5), 2 / 255
    x = (points(data, 300, shape=(6,)).clamp(-1, 1) / delta).add(0.5).floor().sub(0.5) * delta
    denoiser = data.denoiser(VP)
    how = {"nfe": 40, "seeds": range(300), "prior": prior(data, VP)}
    got, again = bits_per_dim(denoiser, x, **how), bits_per_dim(denoiser, x[7:9], **{**how, "seeds": [7, 8]})
    torch.testing.assert_close(got[7:9], again, rtol=0, atol=1e-9)
    wide = (1 / (math.sqrt(2 * math.pi) * 0.5)) * torch.exp(-0.5 * (x / 0.5) ** 2) * delta  # mass of each level
    torch.testing.assert_close(got, -wide.log2().mean(1), rtol=0, atol=0.03)
    plain = bits_per_dim(denoiser, x, 40, dequantise=None, prior=how["prior"], t_end=0)
    torch.testing.assert_close(plain, -wide.log2().mean(1), rtol=0, atol=1e-5)
    assert (plain - got).abs().max() > 1e-4


@pytest.mark.parametrize(
    "given, said",
    [
        ({"nfe": 3}, "at least 7"),
        ({"nfe": 3, "solver": "rk4"}, "at least 4"),
        ({"nfe": 20.0}, "whole number"),
        ({"solver": "rk5"}, "unknown solver"),
        ({"trace": "full"}, "unknown trace"),
        ({"distribution": "uniform"}, "unknown distribution"),
        ({"probes": 0}, "probes"),
        ({"chunk": 0}, "chunk"),
        ({"seeds": [1]}, "one for each"),
        ({"seeds": "ab"}, "whole numbers"),
        ({"t_end": 2.0}, "t_end < t_start"),
        ({"t_end": -1.0}, "t_end < t_start"),
        ({"t_start": 3.0}, "t_end < t_start"),
        ({"rtol": 0}, "rtol"),
        ({"grid": "nope"}, "unknown grid"),
        ({"grid": [1.0, 0.0]}, "end above 0"),
        ({"grid": "logsnr", "solver": "rk45"}, "own steps"),
        ({"prior": 3}, "function"),
        ({"prior": lambda x: x}, "one log density a sample"),
    ],
)
def test_bad_options(given, said):
    _, denoiser, x, _ = mixture(VP, 2)
    with pytest.raises(ValueError, match=said):
        log_likelihood(denoiser, x, **given)
    assert denoiser.nfe == 0


def test_bad_data_and_schedules():
    _, denoiser, x, _ = mixture(VP, 2)
    for bad, said in ((x.long(), "floating"), (x[:0], "shape"), (x[:, 0], "shape"), (x / 0, "finite")):
        with pytest.raises(ValueError, match=said):
            log_likelihood(denoiser, bad)
    with pytest.raises(ValueError, match="prior"):
        log_likelihood(Mixture().denoiser(NoiseSchedule.pfgm()), x)
    with pytest.raises(ValueError, match="mean-reverting"):
        log_likelihood(Denoiser(lambda x, t: x, NoiseSchedule.mean_reverting()), x)
    with pytest.raises(ValueError, match="t_start="):
        log_likelihood(Mixture().denoiser(SCHEDULES["flow"], "epsilon"), x)
    with pytest.raises(ValueError, match="levels"):
        bits_per_dim(denoiser, 100 * x)
    with pytest.raises(ValueError, match="levels"):
        bits_per_dim(denoiser, torch.full_like(x, 1 / 255 + 0.004))
    with pytest.raises(ValueError, match="span"):
        bits_per_dim(denoiser, x, span=(1.0, 1.0))
    assert denoiser.nfe == 0


def test_networks_without_gradient_or_value():
    x = points(Mixture(), 2)
    for fn in (lambda x, t: x.detach() * 2, lambda x, t: torch.zeros_like(x)):
        with pytest.raises(ValueError, match="detaches"):
            log_likelihood(Denoiser(fn, VP), x)
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="detaches"):
        log_likelihood(Denoiser(lambda x, t: w * x.detach(), VP), x)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        log_likelihood(Denoiser(lambda x, t: x, VP), x)
    for solver in ("adams6", "rk45"):
        with pytest.raises(ValueError, match="finite"):
            log_likelihood(Denoiser(lambda x, t: x * math.nan, VP), x, solver=solver)
