"""Interpolants between two laws of data: ODE and SDEs lead from one law to the other, whatever two fields the network has."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from two_laws import TwoLaws

import fewstep
from fewstep.samplers import Denoiser, NoiseSchedule, TwoFields, build, sample

LAWS = TwoLaws()
WAYS = [("dpmpp_2m", {}), ("flow_sde", {"w": 0.5}), ("flow_sde", {"w": "t"}), ("flow_sde", {"w": "sin2", "scale": 2.0})]
ALL = ("velocity", "score", "x0", "x1", "z")
PAIRS = [pair for pair in combinations(ALL, 2) if pair != ("score", "z")]


def denoiser(fields: tuple[str, ...] = ("velocity", "score"), **kind: Any) -> TwoFields:
    schedule = NoiseSchedule.interpolant(**kind)
    return TwoFields(LAWS.fields(schedule, fields), schedule, fields)


def floor(n: int) -> float:
    """What a true sample exceeds once in a thousand, along the worst of the eight directions that are looked along."""
    return float(np.sqrt(np.log(2 * 8 / 1e-3) / (2 * n)))


@pytest.mark.parametrize(("solver", "options"), WAYS)
def test_the_other_law_is_reached(solver: str, options: dict[str, Any]) -> None:
    n = 2500
    x1 = LAWS.draw(1, n, seed=1)
    x0 = sample(denoiser(), x1, solver, 40, generator=torch.Generator().manual_seed(2), **options)
    assert LAWS.distance(x0) < floor(n) < 0.1 < LAWS.distance(x1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{}, {"path": "trigonometric"}, {"gamma": "sin2"}, {"gamma": "quadratic"}])
@pytest.mark.parametrize(("solver", "options"), [*WAYS[2:], ("heun", {})])
def test_every_interpolant_by_ode_and_sde(kind: dict[str, str], solver: str, options: dict[str, Any]) -> None:
    n, generator = 5000, torch.Generator().manual_seed(2)
    x0 = sample(denoiser(**kind), LAWS.draw(1, n, seed=1), solver, 80, generator=generator, **options)
    assert LAWS.distance(x0) < floor(n)


@pytest.mark.parametrize("kind", [{}, {"path": "trigonometric", "gamma": "sin2", "scale": 0.7}])
def test_any_two_fields_say_the_others(kind: dict[str, Any]) -> None:
    x = LAWS.draw(1, 5, seed=3)
    for t in (0.11, 0.5, 0.83):
        v, score = denoiser(**kind).both(x, t)
        assert score is not None
        for pair in PAIRS:
            again, other = denoiser(pair, **kind).both(x, t)
            assert torch.allclose(again, v, atol=1e-9) and torch.allclose(other, score, atol=1e-9)  # type: ignore[arg-type]


def test_the_weights_lead_from_one_end_to_the_other() -> None:
    for path, gamma in (("linear", "root"), ("trigonometric", "sin2"), ("linear", "quadratic"), ("linear", "none")):
        schedule = NoiseSchedule.interpolant(path, gamma)
        for t, ends in ((0.0, (1, 0, 0)), (1.0, (0, 1, 0))):
            assert np.allclose([w[0] for w in schedule.weights(t)], ends, atol=1e-15)  # type: ignore[attr-defined]
        t, h = np.linspace(0.1, 0.9, 9), 1e-6
        for after, before, now in zip(*(schedule.weights(u) for u in (t + h, t - h, t)), strict=True):  # type: ignore[attr-defined]
            assert np.allclose((after[0] - before[0]) / (2 * h), now[1], atol=1e-7)
        assert np.allclose(schedule.t_of_lam(schedule.lam(t)), t)


def test_a_flow_between_two_laws_needs_one_field_and_has_no_sde() -> None:
    one = denoiser(("velocity",), gamma="none")
    x1 = LAWS.draw(1, 2000, seed=1)
    assert LAWS.distance(sample(one, x1, "heun", 40)) < floor(2000)
    schedule = one.schedule
    same = Denoiser(lambda x, t: LAWS.fields(schedule, ("velocity",))(x, t)[0], schedule, "flow_prediction")
    assert torch.allclose(sample(same, x1, "heun", 10), sample(one, x1, "heun", 10))
    for told in (one, same, denoiser(("velocity",))):
        with pytest.raises(ValueError, match="needs the score beside the velocity"):
            sample(told, x1, "flow_sde", 5)
        sample(told, x1, "flow_sde", 5, w=0.0)


def test_tables_with_a_score_are_saved_and_played(tmp_path: Any) -> None:
    one = denoiser()
    table = build("flow_sde", one.schedule, 5, w=0.5)
    table.save(tmp_path / "t.json")
    back = fewstep.load(tmp_path / "t.json")
    x1 = LAWS.draw(1, 4, seed=1)
    seeds = range(4)
    assert torch.equal(
        sample(one, x1, back, noise_seeds=seeds), sample(one, x1, "flow_sde", 5, w=0.5, noise_seeds=seeds)
    )
    with pytest.raises(ValueError, match="needs the score"):
        sample(denoiser(("velocity",)), x1, back)


def test_the_end_is_reached_at_first_order() -> None:
    x1 = LAWS.draw(1, 50, seed=1)
    best = sample(denoiser(), x1, "heun", 400)
    errors = [float((sample(denoiser(), x1, "flow_sde", n, w=0.0) - best).norm()) for n in (20, 40, 80)]
    assert all(1.6 < a / b < 2.6 for a, b in pairwise(errors))


BAD: list[tuple[str, Any]] = [
    ("one field predicts the velocity", lambda s: Denoiser(lambda x, t: x, s, "sample")),
    ("one field predicts the velocity", lambda s: Denoiser(lambda x, t: x, s, "epsilon")),
    ("alone does not say where x goes", lambda s: TwoFields(lambda x, t: x, s, ("score",))),
    ("are the same field", lambda s: TwoFields(lambda x, t: x, s, ("score", "z"))),
    ("must be of velocity", lambda s: TwoFields(lambda x, t: x, s, ("velocity", "noise"))),
    ("belongs to NoiseSchedule.interpolant", lambda s: TwoFields(lambda x, t: x, NoiseSchedule.flow())),
    ("has no z and no score", lambda s: TwoFields(lambda x, t: x, NoiseSchedule.interpolant(gamma="none"))),
    ("returned 1 tensors", lambda s: sample(TwoFields(lambda x, t: x, s), torch.ones(2, 2), "heun", 4)),
    ("takes the start of Interpolant for noise", lambda s: build("ddpm", s, 5)),
    ("takes the start of Interpolant for noise", lambda s: build("dpmpp_2m_sde", s, 5)),
    ("must be finite between two laws", lambda s: build("flow_sde", s, 5, w="g2")),
    ("not noise", lambda s: s.initial_noise((2, 2))),
    ("`path` must be one of", lambda s: NoiseSchedule.interpolant("cubic")),
    ("`scale` must be a positive", lambda s: NoiseSchedule.interpolant(scale=0.0)),
    ("guidance has no form", lambda s: fewstep.samplers.guidance.energy(denoiser(), torch.sum)),
]


@pytest.mark.parametrize(("message", "call"), BAD)
def test_bad_input_is_refused(message: str, call: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call(NoiseSchedule.interpolant())
