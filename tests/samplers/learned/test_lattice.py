"""One artefact for evaluations x guidance: what its cascade foretells where nothing was learned, against learning there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from learned_problems import sixteen, task

from fewstep import Artefact
from fewstep.samplers import Denoiser, NoiseSchedule, build, sample
from fewstep.samplers.learned.lattice import Lattice
from fewstep.samplers.learned.learning import learn
from fewstep.samplers.learned.methods.dc import learned_ratios
from fewstep.samplers.learned.planning import planned
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.tasks.each_guidance import under_each
from fewstep.samplers.ratios.cascade import Cascade, cascade, covers, foretold
from fewstep.samplers.ratios.compensation import compensated

VP = NoiseSchedule.vp_linear()


def guided(scale: float) -> Denoiser:
    """A mixture drawn to its first mode's place, as classifier-free guidance does it: D + (scale - 1) (c - D) / 8."""
    plain = sixteen()
    centre = torch.linspace(0.5, -0.5, 16, dtype=torch.float64)

    def fn(x, tau):
        D = plain.fn(x, tau)
        return D + (scale - 1) / 8 * (centre - D) * torch.tanh(D.square().sum(-1, keepdim=True))

    return Denoiser(fn, plain.schedule, "sample")


SMALL: dict[str, Any] = {
    "shape": (16,), "seeds": range(32), "guard_seeds": range(1000, 1032), "cache": False, "progress": False,
    "dtype": "float64", "rivals": False, "batch_size": 256,
    "solver_options": {"order": 3, "corrector": True, "lower_order_final": "zero"},
}  # fmt: skip


def learnt(nfe: list[int], scales: list[float], **how: Any) -> Artefact:
    return learn({g: guided(g) for g in scales}, "unipc", nfe, "dc", cascade=True, **{**SMALL, **how})


def test_what_a_cascade_covers_and_foretells() -> None:
    known = cascade({(n, g): [1, 1, *[1 + 0.01 * n * g] * (n - 2)] for n in (4, 5, 7) for g in (1.0, 3.0)})
    base = {"solver": "unipc", "options": {}, "grid": "quadratic", "ends": [None, None], "time": "t"}
    told = {"cascade": known.content(), "base": base, "guided": True, "holds": True}
    assert covers(told, 6, 2.0) and covers(told, 4, 3.0) and not covers(told, 8, 2.0) and not covers(told, 6, 3.5)
    assert not covers(told, 6, None) and not covers(None, 6, 2.0) and not covers({**told, "holds": False}, 6, 2.0)
    table = foretold(told, VP, 6, 2.0)
    plain = build("unipc", VP, 6, "quadratic")
    assert (table.W == compensated(plain, known.ratios(6, 2.0)).W).all() and abs(known.ratios(6, 2.0)[3] - 1.12) < 0.01


@pytest.mark.slow
def test_an_artefact_foretells_what_it_did_not_learn_and_travels() -> None:
    made = learnt([5, 6, 8], [3.0, 4.0, 5.0])
    made = Artefact.from_dict(made.to_dict())
    told = made.model["cascade"]
    places = [(one["nfe"], one["guidance"]) for one in told["tested"]]
    assert sorted(places) == [(5, 4.0), (6, 3.0), (6, 4.0), (6, 5.0), (8, 4.0)]
    assert told["holds"] and all(one["foretold"] > 0 for one in told["tested"])
    table = made.table(7, 3.5)
    assert table.nfe == 7 and table.name == "unipc"
    assert (table.W == foretold(told, made.schedule, 7, 3.5).W).all()
    x = made.schedule.initial_noise((4, 16), torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.isfinite(sample(guided(3.5), x, made, nfe=7, guidance=3.5)).all()
    with pytest.raises(ValueError, match="no table for nfe 9"):
        made.table(9, 4.0)
    with pytest.raises(ValueError, match="beyond what this artefact"):
        made.table(5, 6.0)
    fails = replace(made, model={**made.model, "cascade": {**told, "holds": False}})
    with pytest.raises(ValueError, match="no table for nfe 7"):
        fails.table(7, 3.5)


@pytest.mark.parametrize(("nfe", "scales"), [([5], [1.0]), ([2, 1], [1.0, 2.0])])
def test_a_cascade_of_one_place_is_refused_before_any_call(nfe: list[int], scales: list[float]) -> None:
    with pytest.raises(ValueError, match="fitted over several places"):
        learnt(nfe, scales)


def fitted(nfe: list[int], scales: list[float]) -> Lattice:
    """The lattice as `learn` fills it, without fixed recipes and guards."""
    model = {g: guided(g) for g in scales}
    seeds: dict[str, Any] = {"seeds": range(256), "guard_seeds": range(1000, 1032)}
    plan = planned(model, solver="unipc", nfe=nfe, method="dc", spec={"cascade": True}, **seeds)
    lattice = Lattice.asked(plan)
    assert lattice is not None
    for problem in under_each(model, plan.guidances, shape=(16,), batch_size=256, dtype="float64"):
        teacher = Teacher(problem, cache=False, paths=plan.paths, **plan.teacher)
        lattice.learn(problem, teacher, {})
    return lattice


@pytest.mark.slow
def test_unseen_places_are_within_a_tenth_of_what_is_learned_there() -> None:
    lattice = fitted([5, 6, 8, 10, 12], [1.0, 2.0, 3.0, 4.0, 5.0])
    told, schedule = lattice.told(), guided(1.0).schedule
    known = Cascade(**told["cascade"])
    gains, worse = [], []
    for nfe, scale in [(7, 2.5), (9, 1.5), (9, 3.5), (11, 4.5), (7, 4.5)]:
        t, base = task(guided(scale), (16,), nfe, train=192, valid=512), lattice._table(nfe)
        learned = t.judge(compensated(base, learned_ratios(t, base)))
        unseen = t.judge(foretold(told, schedule, nfe, scale))
        assert abs(unseen - t.judge(compensated(base, known.ratios(nfe, scale)))) < 1e-12
        worse.append(unseen / learned)
        gains.append(unseen / t.judge(base))
    print(f"error over that of learning there: {worse}; over that of the base: {gains}")
    assert np.mean(worse) < 1.06 and max(worse) < 1.15 and max(gains) < 0.95
