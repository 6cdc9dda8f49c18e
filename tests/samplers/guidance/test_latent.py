"""Restoring in a latent space: the image is measured, the latent is sampled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from restoring import Linear
from torch import Tensor

from fewstep.samplers import Denoiser, NoiseSchedule, guidance, sample

TURN, _ = torch.linalg.qr(torch.randn(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
A = guidance.mask(torch.arange(12) % 3 > 0)


def decode(z: Tensor) -> Tensor:
    """Latents as images: a curved surface of six dimensions in twelve."""
    return torch.tanh(z) @ TURN.T


def encode(x: Tensor) -> Tensor:
    return torch.atanh((x @ TURN).clamp(-0.999, 0.999))


LATENT = Denoiser(lambda x, tau: 0.25 * x / (0.25 + tau**2), NoiseSchedule.edm(0.005, 30.0), "sample")


def problem(n: int = 64) -> tuple[Tensor, Tensor]:
    """The truth and what is measured of it."""
    draw = torch.Generator().manual_seed(1)
    z = 0.5 * torch.randn(n, 6, generator=draw, dtype=torch.float64)
    x = decode(z)
    return x, A(x + 0.05 * torch.randn(n, 12, generator=draw, dtype=torch.float64))


RUNS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("psld", {"decode": decode, "encode": encode, "iterations": 3}, "dpmpp_2m", {}),
    ("psld", {"decode": decode, "encode": encode}, "dpmpp_2m", {}),
    ("resample", {"decode": decode, "prior_std": 0.5}, "ddim", {"eta": 1.0}),
    ("resample", {"decode": decode, "prior_std": 0.5}, "renoise", {}),
]


@pytest.mark.parametrize(("name", "options", "solver", "how"), RUNS)
def test_images_are_restored_from_their_latents(
    name: str, options: dict[str, Any], solver: str, how: dict[str, Any]
) -> None:
    x, y = problem()
    guided = getattr(guidance, name)(LATENT, y, A, 0.05, **options)
    x_T = 30 * torch.randn(64, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        plain, found = (decode(sample(one, x_T, solver, 12, noise_seeds=range(64), **how)) for one in (LATENT, guided))
    assert float((found - x).norm()) < 0.35 * float((plain - x).norm())
    assert float((A(found) - y).std()) < 0.1


def test_without_an_autoencoder_psld_is_dps() -> None:
    one = Linear()
    plain = guidance.dps(one.denoiser(), one.y, one.operator, one.noise, iterations=2)
    same = guidance.psld(one.denoiser(), one.y, one.operator, one.noise, gluing=0.0, iterations=2)
    torch.testing.assert_close(same.x0(one.start(5), 1.0), plain.x0(one.start(5), 1.0))


def test_bad_input() -> None:
    _, y = problem(2)
    with pytest.raises(ValueError, match="`decode` must be a function"):
        guidance.resample(LATENT, y, A, decode=3)
    with pytest.raises(ValueError, match="is not linear, which psld needs"):
        guidance.psld(LATENT, y, guidance.Operator(torch.sin, linear=False), decode=decode, encode=encode)
