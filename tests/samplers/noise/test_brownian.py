"""Brownian paths: a function of seed and place, with the law of Brownian motion at every resolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewstep.samplers.noise.brownian import LEAF, RANGE, BrownianPaths
from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.noise.sources import BrownianNoise

SHAPE = (40, 50)


def test_increments_have_the_law_of_brownian_motion() -> None:
    """Unit variance at every length from a few leaves to the whole range, and no correlation between increments."""
    points = np.array([-16.0, -5.3, -2.0, -1.9, -1.89, -1.889, 0.0, 0.7, 3.21, 3.21 + 3 * LEAF, 16.0])
    path = BrownianPaths(5)
    z = [path.increment(a, b, SHAPE) for a, b in zip(points[:-1], points[1:], strict=True)]
    for i, one in enumerate(z):
        assert abs(float(one.std()) - 1) < 0.06 and abs(float(one.mean())) < 0.08
        assert all(abs(float((one * other).mean())) < 0.08 for other in z[:i])
    tiny = BrownianPaths(6).increment(0.1 * LEAF, 0.2 * LEAF, SHAPE)
    assert np.isfinite(tiny).all() and 0.1 < float(tiny.std()) < 3


def test_a_path_is_the_same_however_it_is_asked() -> None:
    """Coarse increments are sums of fine ones; order, company and earlier questions change nothing."""
    rng = np.random.default_rng(0)
    points = np.sort(rng.uniform(-6, 6, 40))
    forth, back = BrownianPaths(1), BrownianPaths(1)
    there = [forth.at(p, SHAPE) for p in points]
    again = [back.at(p, SHAPE) for p in points[::-1]][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(there, again, strict=True))
    coarse = BrownianPaths(1).increment(points[0], points[-1], SHAPE) * (points[-1] - points[0]) ** 0.5
    fine = sum(
        BrownianPaths(1).increment(a, b, SHAPE).astype(float) * (b - a) ** 0.5
        for a, b in zip(points[:-1], points[1:], strict=True)
    )
    assert np.abs(coarse - fine).max() < 1e-4
    assert np.array_equal(
        BrownianPaths(1).increment(-RANGE, 2.0, SHAPE), BrownianPaths(1).increment(-np.inf, 2.0, SHAPE)
    )


def test_paths_and_seeds_are_independent() -> None:
    def increment(seed: int, path: int) -> np.ndarray:
        return BrownianPaths(seed).increment(-1.0, 1.0, SHAPE, path)

    draws = [increment(1, 0), increment(2, 0), increment(1, 1), increment(1, 2), increment(2**63 + 1, 0)]
    for i, a in enumerate(draws):
        assert all(abs(float((a * b).mean())) < 0.1 for b in draws[:i])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_noise_belongs_to_the_sample_and_not_to_the_batch(dtype: torch.dtype) -> None:
    like = torch.zeros(3, 4, 5, dtype=dtype)
    draw = Draw(2, 0, -1.0, 0.5)
    whole = BrownianNoise([7, 8, 9])(draw, like)
    assert whole.dtype == dtype and whole.shape == like.shape
    assert torch.equal(whole[1:2], BrownianNoise([8])(draw, like[:1]))
    with pytest.raises(ValueError, match="one seed a sample"):
        BrownianNoise([7])(draw, like)
