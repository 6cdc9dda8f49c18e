"""Bridges: x = y + beta mu, where y is a plain process that every solver knows once the pinned end is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fewstep
from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, build, sample

BRIDGES: list[dict[str, Any]] = [{}, {"scale": 0.3}, {"process": "ve", "scale": 3.0}, {"process": "vp"}]
NAMES = [name for name, entry in SOLVERS.items() if entry.kind == "tableau" and entry.order > 0]


class Pairs:
    """x0 ~ N(0, C0) of four numbers and mu = M x0 + N(0, 0.3^2): of p(x0 | mu) all is known."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(1)
        turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=draw, dtype=torch.float64))
        C0 = turn * torch.tensor([2.0, 1.0, 0.3, 0.1], dtype=torch.float64) @ turn.T
        M = torch.randn(4, 4, generator=draw, dtype=torch.float64)
        self.mu = torch.tensor([[1.0, -0.5, 0.3, 0.8]], dtype=torch.float64)
        self.covariance = torch.linalg.inv(torch.linalg.inv(C0) + M.T @ M / 0.3**2)
        self.mean = self.covariance @ M.T @ self.mu[0] / 0.3**2

    def denoiser(self, bridge: NoiseSchedule) -> Denoiser:
        """E[x0 | x, mu]."""

        def fn(x: Tensor, tau: Tensor) -> Tensor:
            alpha, beta, sigma = (float(f(float(tau))) for f in (bridge.alpha, bridge.beta, bridge.sigma))
            if sigma == 0:
                return self.mean.expand_as(x)
            eye = torch.eye(4, dtype=torch.float64)
            known = torch.linalg.inv(torch.linalg.inv(self.covariance) + (alpha / sigma) ** 2 * eye)
            told = torch.linalg.solve(self.covariance, self.mean) + alpha / sigma**2 * (x - beta * self.mu)
            return told @ known

        return Denoiser(fn, bridge, "sample")


PAIRS = Pairs()


@pytest.mark.parametrize("kind", BRIDGES)
def test_a_bridge_is_its_process_given_its_end(kind: dict[str, Any]) -> None:
    """p(x_t | x_0, x_T = mu) of x_t = a x_0 + s eps, by conditioning a Gaussian."""
    bridge = NoiseSchedule.bridge(**kind)
    base = {"vp": NoiseSchedule.vp_linear(), "ve": NoiseSchedule.edm(sigma_max=3.0)}.get(kind.get("process", ""))
    t, T = np.linspace(0.05, 0.95, 7) * bridge.t_max, bridge.t_max
    a, aT = (np.ones_like(t), 1.0) if base is None else (base.alpha(t), base.alpha(T))
    v, vT = (
        s**2 for s in ((bridge.scale * np.sqrt(t), bridge.scale) if base is None else (base.sigma(t), base.sigma(T)))
    )  # type: ignore[attr-defined]
    gain = aT / a * v / vT  # Cov(x_t, x_T) / Var(x_T)
    assert np.allclose(bridge.beta(t), gain)
    assert np.allclose(bridge.alpha(t), a - gain * aT)
    assert np.allclose(bridge.sigma(t) ** 2, v - gain * aT / a * v)
    assert np.allclose(bridge.t_of_lam(bridge.lam(t)), t)
    assert [float(f(w)) for w in (0.0, T) for f in (bridge.alpha, bridge.beta, bridge.sigma)] == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("kind", BRIDGES)
@pytest.mark.parametrize("solver", ["er_sde", "dpmpp_2m"])
def test_the_posterior_of_a_linear_problem(kind: dict[str, Any], solver: str) -> None:
    bridge, n = NoiseSchedule.bridge(**kind), 6000
    generator = torch.Generator().manual_seed(3)
    x0 = sample(PAIRS.denoiser(bridge), PAIRS.mu.expand(n, 4), solver, 40, generator=generator)
    assert float((x0.mean(0) - PAIRS.mean).norm() / PAIRS.mean.norm()) < 0.02
    away = torch.cov(x0.T) - PAIRS.covariance
    assert float(away.norm() / PAIRS.covariance.norm()) < 0.07


@pytest.mark.slow
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_dbim_has_the_posterior_for_every_eta(eta: float) -> None:
    bridge, n = NoiseSchedule.bridge(), 10_000
    generator = torch.Generator().manual_seed(3)
    x0 = sample(PAIRS.denoiser(bridge), PAIRS.mu.expand(n, 4), "ddim", 300, eta=eta, generator=generator)
    assert float((x0.mean(0) - PAIRS.mean).norm() / PAIRS.mean.norm()) < 0.015
    assert float((torch.cov(x0.T) - PAIRS.covariance).norm() / PAIRS.covariance.norm()) < 0.05


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.one_in(3)
def test_every_solver_leaves_the_pin(name: str) -> None:
    """By one row that draws all noise, after which it runs on y = x - beta mu; what is one point is reached."""
    bridge = NoiseSchedule.bridge(scale=0.4)
    point = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    exact = Denoiser(lambda x, tau: point.expand_as(x), bridge, "sample")
    for nfe in (1, 2, 9):
        table = build(name, bridge, nfe)
        assert table.nfe == nfe and table.constant and table.stochastic == (nfe > 1)
        if "x0" in table.conserves:
            x0 = sample(exact, torch.ones(3, 2, dtype=torch.float64), table, noise_seeds=[1, 2, 3])
            assert torch.allclose(x0, point.expand(3, 2), atol=1e-9)


def test_ddpm_is_the_posterior_sampling_of_i2sb() -> None:
    """Between x_s and x0 the process is a bridge again, which knows nothing of mu."""
    table = build("ddpm", NoiseSchedule.bridge(scale=0.5), 6, grid="uniform")
    t = table.times
    assert np.allclose(table.W[1:, 1, 1], t[2:] / t[1:-1]) and np.allclose(table.W[1:, 1, 2], 1 - t[2:] / t[1:-1])
    assert not table.W[1:, 1, -1].any() and table.W[0, 1, -1] == pytest.approx(t[1])
    assert np.allclose(table.W[1:-1, 1, 3], 0.5 * np.sqrt(t[2:-1] * (1 - t[2:-1] / t[1:-2])))


def test_mu_is_where_it_starts_and_must_be_told_later(tmp_path: Any) -> None:
    bridge = NoiseSchedule.bridge()
    exact, mu = PAIRS.denoiser(bridge), PAIRS.mu.expand(3, 4)
    table = build("dpmpp_2m", bridge, 5)
    table.save(tmp_path / "t.json")
    runs = [{}, {"mu": PAIRS.mu}, {"mu": mu}]
    first, *others = [
        sample(exact, mu, fewstep.load(tmp_path / "t.json"), noise_seeds=[1, 2, 3], **run) for run in runs
    ]
    assert all(torch.equal(first, one) for one in others)
    with pytest.raises(ValueError, match="needs the image it came from"):
        sample(exact, mu, "ddim", 5, t_start=0.5)
    sample(exact, mu, "ddim", 5, t_start=0.5, mu=mu)


BAD: list[tuple[str, Any]] = [
    ("says nothing about x0", lambda b: sample(Denoiser(lambda x, t: x, b, "epsilon"), PAIRS.mu, "ddim", 4)),
    ("not from noise", lambda b: b.initial_noise((2, 4))),
    ("`process` must be one of", lambda b: NoiseSchedule.bridge("wiener")),
    ("`scale` must be a positive", lambda b: NoiseSchedule.bridge(scale=-1.0)),
    ("does not run on bridge schedules", lambda b: sample(PAIRS.denoiser(b), PAIRS.mu, "rk45")),
    ("guidance has no form on bridge", lambda b: fewstep.samplers.guidance.energy(PAIRS.denoiser(b), torch.sum)),
]


@pytest.mark.parametrize(("message", "call"), BAD)
def test_bad_input_is_refused(message: str, call: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call(NoiseSchedule.bridge())
