"""Gaussian noise at irregular points: the function that a grid sees, and a posterior that Gaussian processes know."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewstep.samplers import Denoiser, NoiseSchedule, guidance, sample

FIELD = guidance.GaussianField(0.4)
PLACES = torch.rand(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SCATTERED = guidance.PointField(FIELD, PLACES)


def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (-torch.cdist(a, b).square() / (2 * 0.4**2)).exp()


def test_a_seed_is_the_same_function_at_any_points() -> None:
    n = 8
    cells = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    grid = torch.cartesian_prod(cells, cells)
    on_grid = FIELD.draw((2, n, n), [3, 4], torch.float64)
    scattered = guidance.PointField(FIELD, grid).draw((2, n * n), [3, 4], torch.float64)
    torch.testing.assert_close(scattered.view(2, 2, n, n), on_grid, rtol=1e-9, atol=1e-9)


def test_the_covariance_is_the_kernel() -> None:
    eye = torch.eye(40, dtype=torch.float64)
    torch.testing.assert_close(SCATTERED.covariance(eye), kernel(PLACES, PLACES), rtol=1e-5, atol=1e-5)
    z = SCATTERED.draw((40,), range(800), torch.float64)
    assert float((z.T @ z / 800 - kernel(PLACES, PLACES)).abs().max()) < 0.2


def test_a_function_from_some_of_its_points_is_that_of_gaussian_processes() -> None:
    """Data that are such fields, seen at 8 of 40 points: mean and variance everywhere."""
    functions = Denoiser(lambda x, tau: x / (1 + tau**2), NoiseSchedule.edm(0.005, 80.0), "sample", field=SCATTERED)
    seen = torch.zeros(40).bool()
    seen[:8] = True
    y = guidance.mask(seen)(SCATTERED.draw((40,), [99], torch.float64))
    guided = guidance.exact_covariance(functions, y, guidance.mask(seen), 0.05)
    with torch.no_grad():
        x0 = sample(guided, 80 * SCATTERED.draw((40,), range(500), torch.float64), "dpmpp_2m", 24)
    near = kernel(PLACES, PLACES[:8])
    gain = near @ torch.linalg.inv(near[:8] + 0.05**2 * torch.eye(8).double())
    assert float((x0.mean(0) - gain @ y[0, :8]).abs().max()) < 0.1
    assert float((x0.var(0) - 1 + (gain * near).sum(1)).abs().max()) < 0.1


BAD: list[tuple[str, Any]] = [
    ("must lie in", lambda: guidance.PointField(FIELD, 2 * PLACES)),
    (r"must be \(n, 2\)", lambda: guidance.PointField(FIELD, PLACES[:, :1])),
    ("must be a GaussianField", lambda: guidance.PointField(0.2, PLACES)),  # type: ignore[arg-type]
    ("needs states", lambda: SCATTERED.draw((39,), [0])),
]


@pytest.mark.parametrize(("message", "call"), BAD)
def test_bad_input(message: str, call: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call()
