"""A true score has no Fokker-Planck residual, a symmetric Jacobian and one law; what is none is told by how much."""

from __future__ import annotations

import json

import pytest
import torch
from learned_problems import ring

import fewstep.eval as fe
from fewstep.eval.gap.score_equation import residual
from fewstep.eval.gap.two_laws import apart
from fewstep.samplers import Denoiser, NoiseSchedule

SMALL = {"shape": (2,), "dtype": "float64", "number": 200, "levels": 3, "nfe": (40, 80), "batch_size": 200}


def broken(turn: float = 0.0, gain: float = 1.0) -> Denoiser:
    """The exact eps of the ring, turned by an angle and made larger."""
    exact = ring()
    a = torch.tensor(turn, dtype=torch.float64)
    R = gain * torch.stack([torch.stack([a.cos(), -a.sin()]), torch.stack([a.sin(), a.cos()])])

    def fn(x, tau):
        t = float(exact.schedule.time_of_model(float(tau)))
        alpha, sigma = float(exact.schedule.alpha(t)), float(exact.schedule.sigma(t))
        return (x - alpha * exact.fn(x, tau)) / sigma @ R.to(x).T

    return Denoiser(fn, exact.schedule, "epsilon")


@pytest.mark.parametrize("schedule", [NoiseSchedule.vp_linear(), NoiseSchedule.flow(), NoiseSchedule.edm()])
def test_the_residual_of_a_mixture_is_zero_and_its_jacobian_symmetric(schedule):
    denoiser, drawn = (
        ring(schedule),
        torch.randn(4, 400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    )
    node = schedule.node(float(schedule.t_of_lam(0.7)))
    x = node.alpha * drawn[3] + node.sigma * drawn[0].roll(1, 0)
    found = residual(denoiser, x, 0.7, list(drawn[:3]))
    assert found.fokker_planck.mean().abs() < 2e-3 and found.skew.mean() < 1e-3 * found.even.mean()


def test_a_gaussian_made_larger_has_the_residual_of_its_formula():
    """eps = c u / (v / rho^2 + 1) with c: R = c (1 - c) 2 u / (v / rho^2 + 1)^2 of unit variance data v = 1, rho = 1."""
    schedule, c = NoiseSchedule.vp_linear(), 1.3
    eps = lambda x, tau: c * x * float(schedule.sigma(schedule.time_of_model(float(tau))))  # noqa: E731
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = torch.randn(3, 4000, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = residual(Denoiser(eps, schedule, "epsilon"), x, 0.0, list(drawn)).fokker_planck.mean()
    exact = (2 * c * (1 - c) * (x * 2**0.5) / 4).square().mean()  # u = x / sigma, sigma^2 = 1/2
    assert abs(found / exact - 1) < 0.1


def test_equal_laws_are_not_told_apart_and_others_are():
    drawn = [torch.randn(2, 200, 2, generator=torch.Generator().manual_seed(seed)) for seed in range(9)]
    assert sum(apart(x, y).p < 0.05 for x, y in drawn) <= 2
    x, y = drawn[0]
    assert apart(x, y + 0.3).p < 0.01 and apart(x, x).distance <= apart(x, y).by_chance


@pytest.mark.slow
def test_the_report_tells_a_score_from_what_is_none(tmp_path):
    many = {**SMALL, "number": 800}  # of 200 the two laws cannot be told apart: p = 0.1
    true, turned, larger = (fe.score_gap(d, **many) for d in (ring(), broken(turn=0.3), broken(gain=1.3)))
    assert not true.differs and max(one.fokker_planck for one in true.levels) < 0.1
    assert max(one.skew for one in true.levels) < 0.01 < 0.1 < max(one.skew for one in turned.levels)
    assert larger.differs and max(one.fokker_planck for one in larger.levels) > 0.1
    assert "two laws" in larger.text() and "Fokker-Planck" in true.text()
    true.to_json(tmp_path / "gap.json")
    assert json.loads((tmp_path / "gap.json").read_text())["differs"] is False


@pytest.mark.parametrize(
    ("options", "said"), [({"number": 2}, "number"), ({"ode": "ddpm"}, "no noise"), ({"sde": "ddim"}, "draws noise")]
)
def test_bad_input(options, said):
    with pytest.raises(ValueError, match=said):
        fe.score_gap(ring(), **{**SMALL, **options})
