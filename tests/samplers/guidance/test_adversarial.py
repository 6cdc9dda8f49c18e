"""AdvDiff: shifts and moves are the gradients that they are said to be, and a sample that succeeded is left alone."""

import math

import pytest
import torch
from problems import Mixture

from fewstep import NoiseSchedule, adjoint, sample
from fewstep.samplers import guidance

VP = NoiseSchedule.vp_linear()
SIDES = torch.tensor([[1.0, 0.2], [-0.7, 0.4], [0.1, -0.9]], dtype=torch.float64)
B = 4
TARGET = torch.tensor([0, 1, 2, 0])


def classifier(x):
    """Three classes around the mixture's components, smooth."""
    return (x @ SIDES.T.to(x) + 0.3 * x.sin() @ SIDES.T.to(x)) * 3


def climb(x, target=TARGET):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(classifier(x).log_softmax(1)[torch.arange(len(x)), target].sum(), x)[0]


def noise():
    return torch.randn(B, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def attacked(x_T=None, target=TARGET, solver="ddim", nfe=6, denoiser=None, classifier=classifier, **options):
    x_T, denoiser = noise() if x_T is None else x_T, denoiser or Mixture().denoiser(VP)
    return guidance.adv_diff(denoiser, x_T, classifier, target, solver, nfe, **{"shell": None, **options})


def states(x_T, solver="ddim", nfe=6):
    found = [x_T]
    sample(Mixture().denoiser(VP), x_T, solver, nfe, callback=lambda seen: found.append(seen.x))
    return found


def unreachable(x):
    """Log-probabilities of `classifier` for classes of which the fourth is always the likeliest."""
    known = classifier(x).log_softmax(1)
    return torch.cat([known, torch.full_like(known[:, :1], math.log(3.0))], 1)


@pytest.mark.parametrize("exact", [False, True])
def test_without_guidance_it_is_the_sample(exact):
    found = attacked(scale=0.0, tries=1, exact=exact)
    torch.testing.assert_close(found.x0, states(noise())[-1])
    assert torch.equal(found.x_T, noise()) and torch.equal(found.success, classifier(found.x0).argmax(1) == TARGET)
    assert torch.equal(found.tries, torch.ones_like(TARGET)) and found.nfe == 6


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "dpm_2"])
def test_the_published_shift_of_the_last_row(solver):
    """At the state after the row."""
    found, plain = attacked(solver=solver, scale=0.3, last=0.1, tries=1), states(noise(), solver)
    torch.testing.assert_close(found.x0, plain[-1] + 0.3 * climb(plain[-1]))


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_the_exact_shift_of_the_last_row(solver):
    """At the state before the row, by the same amount of the state after it."""
    found, plain = attacked(solver=solver, scale=0.3, last=0.1, tries=1, exact=True), states(noise(), solver)
    torch.testing.assert_close(found.x0, plain[-1] + 0.3 * climb(plain[-2]))


def test_the_published_move_of_the_noise():
    found = attacked(scale=0.0, noise_scale=0.2, tries=2, classifier=unreachable)
    assert not found.success.any()
    moved = noise() + 0.2 * unreachable_climb(states(noise())[-1])
    torch.testing.assert_close(found.x_T, moved)
    torch.testing.assert_close(found.x0, states(moved)[-1])


def unreachable_climb(x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(unreachable(x).log_softmax(1)[torch.arange(B), TARGET].sum(), x)[0]


def test_the_exact_move_of_the_noise():
    found = attacked(scale=0.0, noise_scale=0.2, tries=2, classifier=unreachable, exact=True)
    x_T = noise().requires_grad_()
    x0 = adjoint.sample(Mixture().denoiser(VP), x_T, "ddim", 6, method="direct")
    unreachable(x0).log_softmax(1)[torch.arange(B), TARGET].sum().backward()
    torch.testing.assert_close(found.x_T, (noise() + 0.2 * x_T.grad))
    assert found.nfe == 6 + 6 + 6


def test_the_exact_move_goes_through_the_guidance_of_the_rows():
    """Against differences of the guided sample's log-probability."""
    options = {"scale": 0.2, "last": 0.5, "exact": True, "classifier": unreachable}
    a, h = 1e-3, 1e-5
    found = attacked(tries=2, noise_scale=a, **options)
    for axis in range(2):
        step = h * torch.eye(2, dtype=torch.float64)[axis]
        ends = [attacked(noise() + s * step, tries=1, **options).x0 for s in (1, -1)]
        up, down = (unreachable(x).log_softmax(1)[torch.arange(B), TARGET] for x in ends)
        torch.testing.assert_close((found.x_T - noise())[:, axis] / a, (up - down) / (2 * h), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_it_leads_to_the_target_and_stops(exact):
    found = attacked(scale=0.05, noise_scale=0.3, tries=30, exact=exact)
    assert found.success.all() and len(found.tries.unique()) > 1 and found.tries.max() < 30
    assert torch.equal(classifier(found.x0).argmax(1), TARGET)
    denoiser = Mixture().denoiser(VP)
    for k in range(B):  # alone as in the batch
        one = attacked(
            noise()[k : k + 1], TARGET[k : k + 1], scale=0.05, noise_scale=0.3, tries=30, exact=exact, denoiser=denoiser
        )
        torch.testing.assert_close(one.x0[0], found.x0[k])
        assert one.tries[0] == found.tries[k]


def test_the_start_stays_noise():
    found = attacked(scale=0.0, noise_scale=50.0, tries=3, shell=0.05, classifier=unreachable)
    assert ((found.x_T.norm(dim=1) / math.sqrt(2) - 1).abs() < 0.05 + 1e-9).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": torch.tensor([0, 1])}, r"one whole class a sample.*\(4,\)"),
        ({"target": TARGET.double()}, "one whole class a sample"),
        ({"target": TARGET + 1}, "classes up to 3"),
        ({"classifier": None}, "`classifier` must be a function"),
        ({"scale": -1.0}, "`scale` must be a number"),
        ({"noise_scale": math.nan}, "`noise_scale` must be a number"),
        ({"last": 1.5}, "share of the rows"),
        ({"tries": 0}, "`tries` must be a whole number"),
        ({"shell": 1}, "`shell` must be a share"),
        ({"solver": "dpm_2", "exact": True}, "within its steps"),
        ({"solver": "ddpm"}, "give `seeds`"),
    ],
)
def test_bad_input(given, message):
    denoiser = Mixture().denoiser(VP)
    with pytest.raises(ValueError, match=message):
        attacked(denoiser=denoiser, **given)
    assert denoiser.nfe == 0 or "classes up to" in message
