"""Classifiers that guide: noise-aware ones at the state, clean ones through the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from classes import BOTH, EDM, FLOW, VP, X, class_of, logits_of, pair, slope
from problems import PREDICTIONS, Gaussian, Mixture, level, starts
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, sample
from fewstep.samplers import guidance


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", [VP, EDM, FLOW], ids=["vp", "edm", "flow"])
def test_exact_classifier_gives_the_conditional_model(schedule: NoiseSchedule, prediction: str) -> None:
    """Class by class in one batch, at all noise levels."""
    guided = guidance.classifier(
        BOTH.denoiser(schedule, prediction), logits_of(BOTH, schedule), torch.tensor([0, 1, 1, 0])
    )
    for t in (0.05, 0.5, 0.99) if schedule is not EDM else (0.01, 1.0, 40.0):
        x = starts(schedule, t, 4)
        for row, k in enumerate((0, 1, 1, 0)):
            expected = class_of(k).denoiser(schedule, prediction).x0(x[row : row + 1], t)
            torch.testing.assert_close(guided.x0(x, t)[row : row + 1], expected, rtol=1e-7, atol=1e-8)


@pytest.mark.slow
def test_order_of_convergence_is_the_solvers() -> None:
    """Slope 1 of DDIM and 2 of 2M, as without guidance; towards the exact conditional law."""
    guided = guidance.classifier(BOTH.denoiser(VP), logits_of(BOTH, VP), 1)
    x = starts(VP, 0.9, 8)
    assert slope(guided, "ddim", x, VP) == pytest.approx(1.0, abs=0.15)
    assert slope(guided, "dpmpp_2m", x, VP) == pytest.approx(2.0, abs=0.25)
    assert slope(guidance.cfg(*pair(), 2.0), "dpmpp_2m", x, VP) == pytest.approx(2.0, abs=0.25)
    one = Gaussian(0.4, 0.3)
    two = Mixture([[0.4, 0.4], [-1.0, -1.0]], [0.3, 0.6], [0.5, 0.5])
    exact = one.flow(VP, x, 0.9, 0.05)
    got = sample(
        guidance.classifier(two.denoiser(VP), logits_of(two, VP), 0),
        x,
        "dpmpp_2m",
        400,
        "logsnr",
        t_start=0.9,
        t_end=0.05,
    )
    torch.testing.assert_close(got, exact, rtol=0, atol=2e-4)


def test_noise_aware_classifier_takes_no_gradient_of_the_network() -> None:
    deaf = BOTH.denoiser(VP)
    guided = guidance.classifier(Denoiser(lambda x, t: deaf.fn(x.detach(), t), VP), logits_of(BOTH, VP), 0)
    with torch.no_grad():
        x0 = sample(guided, X, "ddim", 5)
    assert not x0.requires_grad and guided.inner.nfe == 5
    scaled = guidance.classifier(BOTH.denoiser(VP), logits_of(BOTH, VP), 0, 0.0)
    torch.testing.assert_close(scaled.x0(X, 0.5), BOTH.denoiser(VP).x0(X, 0.5))


def test_clean_classifier_acts_through_the_network() -> None:
    """D' = D + (sigma^2 / alpha) grad_x log p(class | D(x)), by autograd."""
    judge = torch.nn.Linear(2, 3, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    base, t = BOTH.denoiser(VP), 0.4
    guided = guidance.classifier(base, judge, labels, 2.0, clean=True)
    x = X.clone().requires_grad_()
    log_p = judge(base.x0(x, t)).log_softmax(1)[torch.arange(6), labels]
    (g,) = torch.autograd.grad(log_p.sum(), x)
    alpha, sigma = level(VP, t)
    torch.testing.assert_close(guided.x0(X, t), base.x0(X, t) + 2.0 * sigma**2 / alpha * g, rtol=1e-10, atol=1e-10)
    low = guidance.classifier(base, judge, labels, lambda rho: 2.0 * (rho < 0.5), clean=True)  # it is 2 here
    torch.testing.assert_close(low.x0(X, t), base.x0(X, t))
    torch.testing.assert_close(low.x0(X, 0.1), guided.x0(X, 0.1))


def test_exact_classifier_under_noise_that_is_a_field() -> None:
    """Two Gaussian processes in noise of covariance C: the gradient moves the state by C, to the class asked for."""
    n, field = 8, guidance.GaussianField(0.1, dims=1)
    eye = torch.eye(n, dtype=torch.float64)
    C, C0 = field.covariance(eye), guidance.GaussianField(0.3, "matern52", dims=1).covariance(eye) + 1e-3 * eye
    means = torch.stack([torch.linspace(-1, 1, n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)])

    def laws(x: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x | k), (B, 2), and E[x0 | x, k], (2, B, n)."""
        total, gap = C0 + float(tau) ** 2 * C, x - means[:, None]
        pulled = torch.linalg.solve(total, gap.mT).mT
        return -0.5 * (gap * pulled).sum(-1).T, means[:, None] + pulled @ C0

    def any_class(x: Tensor, tau: Tensor) -> Tensor:
        log_p, x0 = laws(x, tau)
        return (log_p.softmax(1).T[..., None] * x0).sum(0)

    base, labels = Denoiser(any_class, EDM, "sample", field=field), torch.tensor([0, 1, 1])
    x, tau = starts(EDM, 0.7, 3, shape=(n,)), torch.tensor(0.7)
    found = guidance.classifier(base, lambda x, tau: laws(x, tau)[0], labels).call(x, tau)
    expected = laws(x, tau)[1][labels, torch.arange(3)]
    assert float((expected - base.call(x, tau)).norm()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("clean", [False, True])
def test_wrong_classes_are_told_before_the_network_is_called(clean: bool) -> None:
    network: Any = (lambda x: x @ torch.ones(2, 4, dtype=x.dtype)) if clean else lambda x, t: x.new_zeros(len(x), 4)
    for classes, message in (
        (4, "class 4 is out of range: the classifier knows 4"),
        (torch.tensor([0, 1]), "2 classes for a batch of 6"),
    ):
        base = BOTH.denoiser(VP)
        guided = guidance.classifier(base, network, classes, clean=clean)
        with pytest.raises(ValueError, match=message):
            sample(guided, X, "ddim", 3)
        assert base.nfe == 0
    base = BOTH.denoiser(VP)
    bad: Any = (lambda x: x.sum()) if clean else lambda x, t: x.sum()
    with pytest.raises(ValueError, match="must return logits of shape"):
        sample(guidance.classifier(base, bad, 0, clean=clean), X, "ddim", 3)
    for classes in (-1, 0.5, torch.tensor([[1]]), True):
        with pytest.raises(ValueError, match="`classes` must be an int"):
            guidance.classifier(base, network, classes, clean=clean)  # type: ignore[arg-type]
