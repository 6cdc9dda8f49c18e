"""Optimising the noise that a sampler starts from: answers that are known, one sample at a time."""

import math

import pytest
import torch
from pipelines import PIPELINES
from problems import Gaussian, Mixture

from fewstep import Denoiser, NoiseSchedule, adjoint, sample
from fewstep.adjoint.optimise.lbfgs import lbfgs
from fewstep.samplers import guidance

VP, FLOW = NoiseSchedule.vp_linear(), NoiseSchedule.flow()
D = 8
STDS = torch.logspace(0.2, -0.5, D, dtype=torch.float64)


def linear(schedule=VP):
    """Data N(0, diag(STDS^2)): every sampler is a linear map of x_T."""

    def fn(x, tau):
        t = schedule.time_of_model(float(tau))
        a, s = float(schedule.alpha(t)), float(schedule.sigma(t))
        variance = STDS.to(x) ** 2
        return (s - a * variance) * x / (a**2 * variance + s**2)

    return Denoiser(fn, schedule, "flow_prediction")


def noise(batch=3, seed=0, length=None, shape=(D,)):
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x if length is None else x * length / x.flatten(1).norm(dim=1).view(-1, *(1,) * len(shape))


A = noise(3, 1)
Y = noise(3, 2, shape=(3,))


def far(y=Y):
    """|A x0 - y|^2 of every sample."""
    return lambda x0: (x0 @ A.T - y).square().sum(1)


def nearest(denoiser, x_T, *plan):
    """The point of {A x0(x_T) = y} next to x_T, which is where gradients of any kind lead."""
    M = A * sample(denoiser, torch.ones(1, D, dtype=torch.float64), *plan)
    return x_T + (Y - x_T @ M.T) @ torch.linalg.pinv(M).T


METHODS = {
    "doodl": lambda *a, **k: guidance.doodl(*a, **{"lr": 0.02, "clip": 1.0, "renorm": False, "shell": None, **k}),
    "d_flow": lambda *a, **k: guidance.d_flow(*a, **{"shell": None, **k}),
}


@pytest.mark.parametrize(("name", "iterations"), [("doodl", 200), ("d_flow", 40)])
def test_the_known_minimiser_of_a_linear_problem(name, iterations):
    denoiser, x_T = linear(), noise()
    found = METHODS[name](denoiser, x_T, far(), "dpmpp_2m", 4, iterations=iterations)
    assert found.losses.shape == (iterations + 1, 3) and found.losses.amin(0).max() < 1e-9
    torch.testing.assert_close(found.x_T, nearest(denoiser, x_T, "dpmpp_2m", 4), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.x0, sample(denoiser, found.x_T, "dpmpp_2m", 4))
    assert found.nfe == denoiser.nfe - 8  # what the two other runs spent


@pytest.mark.parametrize("name", METHODS)
def test_a_sample_does_not_know_its_neighbours(name):
    denoiser, x_T = Mixture().denoiser(VP), noise(3, shape=(2,))
    target = torch.tensor([[1.0, 0.2], [-1.0, 0.5], [0.1, -1.0]], dtype=torch.float64)

    def run(i):
        wanted = target[i]
        return METHODS[name](
            denoiser, x_T[i], lambda x0: (x0 - wanted).pow(4).sum(1), "dpm_2", 6, iterations=12,
            **({"noise": 0.1, "seeds": [7 * k for k in range(3)[i]]} if name == "doodl" else {}),
        )  # fmt: skip

    together = run(slice(None))
    for k in range(3):
        alone = run(slice(k, k + 1))
        torch.testing.assert_close(alone.losses[:, 0], together.losses[:, k], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(alone.x_T[0], together.x_T[k], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", METHODS)
def test_every_exact_gradient_takes_the_same_path(name):
    denoiser, x_T = Mixture().denoiser(VP), noise(2, shape=(2,))
    runs = [
        METHODS[name](denoiser, x_T, lambda x0: (x0 - 1).pow(4).sum(1), "bdia", 8, iterations=6, method=method)
        for method in ("checkpoint", "direct", "reversible", None)
    ]
    for other in runs[1:]:
        torch.testing.assert_close(other.losses, runs[0].losses, rtol=1e-6, atol=1e-9)
    assert runs[3].nfe == runs[2].nfe > runs[0].nfe  # bdia is undone unless something else is asked for


@pytest.mark.parametrize("schedule", [VP, FLOW, NoiseSchedule.edm()], ids=lambda s: s.kind)
@pytest.mark.parametrize("name", ["doodl", "d_flow"])
def test_the_start_stays_noise(name, schedule):
    """Towards an image that asks for a much longer start."""
    unit = float(schedule.sigma(schedule.t_max)) if schedule.kind == "ve" else 1.0
    x_T = unit * noise(2, length=math.sqrt(D))
    far_away = 5 * torch.tensor([1.0, -1.0] * (D // 2))
    plan = {
        "denoiser": linear(schedule),
        "x_T": x_T,
        "loss": lambda x0: (x0 - far_away).square().sum(1),
        "solver": "ddim",
    }
    found = getattr(guidance, name)(**plan, nfe=6, iterations=15)
    lengths = found.x_T.norm(dim=1) / unit / math.sqrt(D)
    assert (found.losses.amin(0) < 0.9 * found.losses[0]).all()
    options = {"renorm": False} if name == "doodl" else {"shell": 0.05}
    if name == "doodl":
        assert found.x_T.mean(1).abs().max() < 1e-9 * unit
    longer = getattr(guidance, name)(**plan, nfe=6, iterations=15, **options).x_T
    assert (lengths - 1).abs().max() < 1e-9
    assert (longer.norm(dim=1) / unit / math.sqrt(D) - 1.05).abs().max() < 1e-3 and longer.mean(
        1
    ).abs().max() > 1e-3 * unit


def test_noise_of_a_channel():
    x_T = noise(2, shape=(3, 5, 4))
    found = guidance.doodl(
        Gaussian().denoiser(VP), x_T, lambda x0: -x0[:, 0].sum((1, 2)), "ddim", 4, iterations=4, renorm="channel"
    )
    assert found.x_T.mean((2, 3)).abs().max() < 1e-9
    torch.testing.assert_close(found.x_T.square().mean((2, 3)), torch.ones(2, 3, dtype=torch.float64))


def test_the_best_of_every_sample_is_kept():
    """With steps that are far too long, the losses go up and down."""
    x_T = noise(4)
    found = guidance.doodl(linear(), x_T, far(torch.zeros(3)), "ddim", 5, iterations=12, clip=0.5, renorm=False)
    assert (found.losses[-1] > found.losses.amin(0) + 0.01).any()
    torch.testing.assert_close(far(torch.zeros(3))(found.x0), found.losses.amin(0))
    torch.testing.assert_close(sample(linear(), found.x_T, "ddim", 5), found.x0)


def test_injected_noise_belongs_to_its_seed():
    def run(seeds, **options):
        return guidance.doodl(
            linear(), noise(2), far(Y[:2]), "ddim", 4, iterations=3, seeds=seeds, **{"noise": 0.5, **options}
        ).losses

    assert torch.equal(run([1, 2]), run([1, 2])) and not torch.equal(run([1, 2])[:, 1], run([1, 3])[:, 1])
    assert torch.equal(run([1, 2])[:, 0], run([1, 3])[:, 0])


def test_a_stochastic_solver_keeps_its_noise():
    """The loss of one noise path is quadratic in x_T, so that L-BFGS brings it to nothing."""
    found = guidance.d_flow(linear(), noise(), far(), "ddpm", 6, iterations=40, clip=3.0, seeds=[1, 2, 3], shell=None)
    assert found.losses.amin(0).max() < 1e-9


def test_starting_from_a_guess():
    """blend=1 is the inverted guess, which a fine solver brings back; blend=0 is x_T."""
    denoiser, x_T, image = linear(), noise(), STDS * noise(3, 5)

    def first(blend):
        return guidance.d_flow(
            denoiser, x_T, lambda x0: (x0 - image).square().sum(1), "ddim", 100, iterations=1, shell=None,
            guess=image, blend=blend,
        ).losses[0]  # fmt: skip

    assert first(1.0).max() < 0.03 < 0.1 < first(0.0).min()
    torch.testing.assert_close(first(0.0), (sample(denoiser, x_T, "ddim", 100) - image).square().sum(1))


def test_the_penalty_is_the_density_of_the_length():
    x = noise(5)
    length = x.norm(dim=1)
    density = (D - 1) * length.log() - length.square() / 2
    penalty = guidance.noise_prior_penalty(x)
    torch.testing.assert_close(penalty - penalty[0], density[0] - density)
    mode = noise(5, length=math.sqrt(D - 1))
    torch.testing.assert_close(
        guidance.noise_prior_penalty(mode), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0
    )
    pulled = guidance.d_flow(linear(), 3 * x, lambda x0: 0 * x0.sum(1), "ddim", 3, iterations=20, shell=None, prior=2.0)
    torch.testing.assert_close(pulled.x_T.norm(dim=1), mode.norm(dim=1), rtol=1e-4, atol=0)


def test_a_guided_denoiser_and_a_pipeline():
    conditional, unconditional = linear(), Gaussian().denoiser(VP, "flow_prediction")
    guided = guidance.cfg(conditional, unconditional, 1.5)
    found = guidance.d_flow(guided, noise(), far(), "dpmpp_2m", 4, iterations=30, shell=None)
    assert found.losses.amin(0).max() < 1e-9
    pipe, call = PIPELINES["sd"].make()
    denoiser = Denoiser.from_pipeline(pipe, **{**call, "output_type": "pt"})
    x_T = denoiser.initial_noise(torch.Generator().manual_seed(0))
    for run in (guidance.doodl, guidance.d_flow):
        found = run(denoiser, x_T, lambda x0: denoiser.decode(x0).flatten(1).mean(1), "ddim", 3, iterations=3)
        assert found.x_T.dtype == x_T.dtype and (found.losses.amin(0) < found.losses[0]).all()


def test_half_precision_keeps_its_steps_in_float32():
    """Steps far below the resolution of bfloat16 add up."""
    x_T = noise(2).bfloat16()
    found = guidance.doodl(
        Gaussian().denoiser(VP), x_T, lambda x0: x0.float().sum(1), "ddim", 3, iterations=60, clip=2e-3, momentum=0.0,
        renorm=False, shell=None,
    )  # fmt: skip
    assert found.x_T.dtype == found.x0.dtype == torch.bfloat16 and (found.losses.amin(0) < found.losses[0] - 0.1).all()


def rosenbrock(x):
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def searched(x, evaluations):
    search, values = lbfgs(x), []
    x = next(search)
    for _ in range(evaluations):
        x = x.detach().requires_grad_()
        f = rosenbrock(x)
        values.append(f.detach())
        x = search.send((values[-1], torch.autograd.grad(f.sum(), x)[0]))
    return torch.stack(values)


def test_lbfgs_is_as_fast_as_that_of_torch():
    """Evaluations until Rosenbrock's function is below 1e-8, summed over starts."""
    starts = 2 * noise(8, shape=(2,))
    ours = (searched(starts, 90).cummin(0).values > 1e-8).sum()
    theirs = 0
    for start in starts:
        x, values = start.clone()[None].requires_grad_(), []
        optimiser = torch.optim.LBFGS(
            [x], max_iter=90, max_eval=90, history_size=10, line_search_fn="strong_wolfe", tolerance_change=0
        )

        def closure(x=x, values=values, optimiser=optimiser):
            optimiser.zero_grad()
            f = rosenbrock(x).sum()
            f.backward()
            values.append(float(f.detach()))
            return f

        optimiser.step(closure)
        theirs += next((i for i, v in enumerate(values) if v < 1e-8), 90)
    assert ours < 1.2 * theirs < 1.2 * 8 * 60


def test_lbfgs_at_a_minimum_stays():
    """A gradient of nothing, and a batch in which others go on."""
    values = searched(torch.tensor([[1.0, 1.0], [-1.2, 1.0]], dtype=torch.float64), 60)
    assert values[:, 0].max() == 0 and values[-1, 1] < 1e-8


def test_a_loss_that_is_not_finite_names_its_iteration():
    calls = []

    def loss(x0):
        calls.append(1)
        return x0.sum(1) * (math.inf if len(calls) == 3 else 1.0)

    with pytest.raises(ValueError, match=r"not finite in iteration 2, samples \[0, 1, 2\]"):
        guidance.doodl(linear(), noise(), loss, "ddim", 3, iterations=5)


BAD = {
    "loss of all": ({"loss": lambda x0: x0.sum()}, r"one number a sample.*\(3,\)"),
    "loss without graph": ({"loss": lambda x0: x0.detach().sum(1)}, "no gradient"),
    "no loss": ({"loss": None}, "`loss` must be a function"),
    "driver": ({"solver": "rk45"}, "no table"),
    "stochastic": ({"solver": "ddpm"}, "give `seeds`"),
    "seeds": ({"seeds": [1]}, "1 noise seeds for a batch of 3"),
    "iterations": ({"iterations": 0}, "`iterations` must be a whole number"),
    "shell": ({"shell": 1.5}, "`shell` must be a share"),
    "prior": ({"prior": -1.0}, "`prior` must be a number"),
    "option": ({"nonsense": 1}, "no option 'nonsense'"),
    "shape": ({"x_T": torch.randn(3)}, "two numbers a sample"),
    "NaN": ({"x_T": torch.full((3, D), torch.nan)}, "finite"),
}
OWN = {
    "doodl": {
        "clip": ({"clip": 0.0}, "`clip` must be a number above 0"),
        "noise": ({"noise": 0.1}, "drawn from `seeds`"),
        "renorm": ({"renorm": "image"}, "`renorm` must be"),
        "channels": ({"renorm": "channel"}, r"\(B, C, ...\)"),
    },
    "d_flow": {
        "memory": ({"memory": 0}, "`memory` must be a whole number"),
        "guess": ({"guess": torch.zeros(1, D)}, "`guess` must be images of x_T's shape"),
        "blend": ({"guess": torch.zeros(3, D), "blend": 2}, "share of the variance"),
        "method": ({"method": "adjoint_dpm"}, "line search needs it exactly"),
    },
}


@pytest.mark.parametrize(("name", "case"), [(n, c) for n in OWN for c in (*BAD, *OWN[n])])
def test_bad_input_is_told_before_it_costs(name, case):
    given, message = {**BAD, **OWN[name]}[case]
    denoiser, plain = linear(), {"x_T": noise(), "loss": far(), "solver": "ddim", "nfe": 3, "iterations": 2}
    with pytest.raises(ValueError, match=message):
        getattr(guidance, name)(denoiser, **{**plain, **given})
    assert denoiser.nfe == 0 or "loss" in given


def test_the_gradient_is_that_of_the_sampler():
    """One step of length 1 goes along adjoint.sample's gradient."""
    denoiser, x_T = Mixture().denoiser(VP), noise(2, shape=(2,)).requires_grad_()
    adjoint.sample(denoiser, x_T, "dpmpp_2m", 5, method="direct").pow(3).sum().backward()
    found = guidance.doodl(
        denoiser, x_T, lambda x0: x0.pow(3).sum(1), "dpmpp_2m", 5, iterations=1, lr=0.01, clip=1e9, renorm=False, shell=None
    )  # fmt: skip
    torch.testing.assert_close(found.x_T, (x_T - 0.01 * x_T.grad).detach())
