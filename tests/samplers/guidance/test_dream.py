"""Dreamguider: losses whose step norms choose the length, without a gradient of the network."""

from __future__ import annotations

import pytest
import torch
from classes import EDM, VP
from problems import Gaussian, level, starts

from fewstep import Denoiser, sample
from fewstep.samplers import guidance


def test_dreamguider_puts_exact_measurements_in_place() -> None:
    """Where the spread allows, one step of its length is the pseudo-inverse: masks, means, gray values; whatever the factor."""
    base = Gaussian().denoiser(VP)
    x = starts(VP, 0.5, 3, shape=(3, 4, 4))
    known = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    truth = 2.0 + starts(VP, 0.0, 3, seed=5, shape=(3, 4, 4))
    for A in (guidance.mask(known), guidance.downsample(2), guidance.colour((0.2, 0.7, 0.1))):
        y = A(truth)
        found = guidance.dreamguider(base, y, A, prior_std=50.0).x0(x, 0.5)
        torch.testing.assert_close(found, guidance.impute(base, y, A).x0(x, 0.5), rtol=1e-9, atol=1e-9)
    y = guidance.mask(known)(truth)
    loss = lambda u: 7.0 * (known * (u - truth)).square().flatten(1).sum(1)  # noqa: E731
    other = guidance.dreamguider(base, loss=loss, prior_std=50.0).x0(x, 0.5)
    torch.testing.assert_close(other, guidance.impute(base, y, guidance.mask(known)).x0(x, 0.5), rtol=1e-9, atol=1e-9)


def test_dreamguider_goes_no_farther_than_the_spread_and_the_noise() -> None:
    base, A = Gaussian().denoiser(VP), guidance.mask(torch.tensor([1.0, 1.0, 0.0]))
    x, y = starts(VP, 0.5, 4, shape=(3,)), torch.full((4, 3), 30.0, dtype=torch.float64) * torch.tensor([1.0, 1.0, 0.0])
    alpha, sigma = level(VP, 0.5)
    reach = (3 * sigma**2 / (sigma**2 + alpha**2)) ** 0.5
    moved = guidance.dreamguider(base, y, A, scale=0.3).x0(x, 0.5) - base.x0(x, 0.5)
    torch.testing.assert_close(moved.norm(dim=1), torch.full((4,), 0.3 * reach, dtype=torch.float64))
    near = A(base.x0(x, 0.5)) + 0.01 * A(torch.ones(4, 3, dtype=torch.float64))
    still = guidance.dreamguider(base, near, A, noise_std=0.02)  # misses by less than its noise
    assert torch.equal(still.x0(x, 0.5), base.x0(x, 0.5))


@torch.no_grad()
def test_dreamguider_restores_without_gradient_of_the_network() -> None:
    """On a Gaussian problem, nearer to the posterior mean than without it, consistent with y, at any number of steps."""
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=g, dtype=torch.float64))[0]
    cov = basis @ torch.diag(torch.logspace(0.3, -1.3, 8, dtype=torch.float64)) @ basis.T
    M = torch.randn(3, 8, generator=g, dtype=torch.float64)
    y = M @ torch.linalg.cholesky(cov) @ torch.randn(8, generator=g, dtype=torch.float64)
    eye = torch.eye(8, dtype=torch.float64)
    mean = cov @ M.T @ torch.linalg.solve(M @ cov @ M.T + 0.01 * torch.eye(3, dtype=torch.float64), y)
    fn = lambda x, tau: x.detach() @ (cov @ torch.linalg.inv(cov + float(tau) ** 2 * eye))  # noqa: E731
    base = Denoiser(fn, EDM, "sample")
    guided = guidance.dreamguider(base, y[None], guidance.matrix(M), 0.1)
    x = starts(EDM, EDM.t_max, 256, shape=(8,))
    errors = {}
    for nfe in (20, 100):
        x0 = sample(guided, x, "dpmpp_2m", nfe)
        errors[nfe] = float((x0.mean(0) - mean).norm() / mean.norm())
        residual = float((x0 @ M.T - y).norm(dim=1).mean() / (0.1 * 3**0.5))
        assert 0.1 < residual < 3.5  # deviations of the noise; 21 without guidance
    free = float((sample(base, x, "dpmpp_2m", 20).mean(0) - mean).norm() / mean.norm())
    assert max(errors.values()) < 0.8 * free and abs(errors[20] - errors[100]) < 0.06
    pair_of = torch.cat([sample(guided, x[k : k + 1], "dpmpp_2m", 20) for k in range(2)])
    torch.testing.assert_close(pair_of, sample(guided, x[:2], "dpmpp_2m", 20), rtol=1e-10, atol=1e-10)


def test_augmentations_act_on_both_sides() -> None:
    """Turned pictures and turned measurements say the same about squares; a view that sees half halves the loss."""
    base, A = Gaussian().denoiser(VP), guidance.mask(torch.ones(4))
    x, y = starts(VP, 0.5, 2, shape=(4,)), torch.ones(2, 4, dtype=torch.float64)
    plain = guidance.dreamguider(base, y, A).x0(x, 0.5)
    turned = guidance.dreamguider(base, y, A, augmentations=[lambda u: u, lambda u: u.flip(1)]).x0(x, 0.5)
    torch.testing.assert_close(turned, plain)
    half = guidance.dreamguider(base, y, A, augmentations=[lambda u: u[:, :2]]).x0(x, 0.5) - base.x0(x, 0.5)
    assert not bool(half[:, 2:].any()) and bool(half[:, :2].all())


def test_the_published_form_descends_between_steps() -> None:
    """By its own lengths, with either gradient or both: nearer to what was measured than without."""
    data, seen = (
        torch.randn(200, 6, generator=torch.Generator().manual_seed(0)),
        guidance.mask([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]),
    )
    base, y = Gaussian(0.0, 1.0).denoiser(VP), seen(data)
    x_T = starts(VP, 1.0, 200, shape=(6,)).float()
    runs = {
        name: sample(one, x_T, "ddpm", 60, noise_seeds=range(200))
        for name, one in {
            "plain": base,
            "both": guidance.dreamguider(base, y, seen, published=True),
            "eps": guidance.dreamguider(base, y, seen, published=True, weights=(0.0, 1.0)),
        }.items()
    }
    miss = {name: float((seen(x) - y).detach().square().mean()) for name, x in runs.items()}
    assert max(miss["both"], miss["eps"]) < 0.92 * miss["plain"]


def test_augmentations_by_number_are_the_same_for_all_steps() -> None:
    base, A = Gaussian().denoiser(VP), guidance.mask(torch.ones(8, 8))
    x = starts(VP, 0.5, 2, shape=(1, 8, 8))
    y = A(starts(VP, 0.0, 2, seed=3, shape=(1, 8, 8)))
    first, again, more = (guidance.dreamguider(base, y, A, augmentations=n).x0(x, 0.5) for n in (3, 3, 5))
    assert torch.equal(first, again) and not torch.equal(first, more)
    with pytest.raises(ValueError, match="translations and cut-outs are of images"):
        guidance.dreamguider(base, y.flatten(1), guidance.mask(torch.ones(64)), augmentations=2).x0(x.flatten(1), 0.5)
