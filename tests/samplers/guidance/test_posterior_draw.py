"""Draws of x0 given state and measurement: on Gaussian data the posterior, whatever the number of steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from restoring import Linear

from fewstep.samplers import Denoiser, NoiseSchedule, guidance, sample
from fewstep.samplers.guidance.posterior_draw import root


@pytest.mark.parametrize("nfe", [2, 4])
@pytest.mark.parametrize("schedule", [NoiseSchedule.edm(0.005, 30.0), NoiseSchedule.flow()])
def test_the_posterior_in_a_few_steps(nfe: int, schedule: NoiseSchedule) -> None:
    """Where x_T says nothing about x0 to begin with, the floor of 4,000 samples is 0.02 and 0.035."""
    problem = Linear(schedule)
    guided = guidance.daps(problem.denoiser(), problem.y, problem.operator, problem.noise, iterations=8)
    torch.manual_seed(0)
    start = {"t_start": 0.9995} if schedule.kind == "flow" else {}
    mean, covariance = problem.errors(guided, "renoise", nfe, 4000, **start)
    assert mean < 0.04 and covariance < 0.06


def test_the_published_spread_is_exact_on_white_data() -> None:
    problem = Linear(white=True)
    guided = guidance.daps(problem.denoiser(), problem.y, problem.operator, problem.noise, covariance="spread")
    torch.manual_seed(0)
    mean, covariance = problem.errors(guided, "renoise", 4, 4000)
    assert mean < 0.08 and covariance < 0.06 and problem.vjps == 0  # five directions of variance 1 are not measured


@pytest.mark.parametrize("zero", [0, 2])
def test_roots_by_lanczos(zero: int) -> None:
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    values = torch.tensor([3.0, 1.0, 1.0, 0.2, 0.05, 0.01], dtype=torch.float64)
    values[:zero] = 0
    C, half = (turn * v @ turn.T for v in (values, values.sqrt()))
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(root(lambda v: v @ C, z, 6), z @ half, rtol=1e-7, atol=1e-7)


def test_a_sample_is_that_of_its_seed() -> None:
    problem = Linear()
    seeds = [3, 4, 5]
    x_T = problem.start(3)

    def run(which: list[int]) -> torch.Tensor:
        y, own = problem.y, [seeds[i] for i in which]
        guided = guidance.daps(problem.denoiser(), y, problem.operator, problem.noise, seeds=own)
        return sample(guided, x_T[which], "renoise", 4, noise_seeds=own)

    torch.testing.assert_close(run([1]), run([0, 1, 2])[1:2], rtol=1e-9, atol=1e-9)


def test_a_map_that_is_not_linear_is_followed() -> None:
    """By its derivative at predicted x0: draws explain the measurement."""
    data = Denoiser(lambda x, tau: x / (1 + tau**2), NoiseSchedule.edm(), "sample")
    A = guidance.Operator(lambda x: x.sinh(), linear=False, shape=(3,))
    y = torch.tensor([[0.8, -0.4, 0.1]]).expand(200, 3)
    torch.manual_seed(0)
    x0 = sample(guidance.daps(data, y, A, 0.05), 80 * torch.randn(200, 3), "renoise", 12).detach()
    assert float((x0.sinh() - y).mean(0).abs().max()) < 0.03 and 0.03 < float((x0.sinh() - y).std()) < 0.08


BAD: list[tuple[str, dict[str, Any]]] = [
    ("`covariance` must be one of", {"covariance": "full"}),
    ("seeds for a batch of", {"seeds": [1]}),
    ("iterations", {"iterations": 0}),
]


@pytest.mark.parametrize(("message", "options"), BAD)
def test_bad_input(message: str, options: dict[str, Any]) -> None:
    problem = Linear()
    with pytest.raises(ValueError, match=message):
        guidance.daps(problem.denoiser(), problem.y, problem.operator, 0.1, **options).x0(problem.start(2), 1.0)
