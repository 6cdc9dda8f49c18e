"""One artefact for evaluations x guidance: what its cascade foretells where nothing was learned, against learning there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from learned_problems import sixteen, task

from fewstep import Artefact
from fewstep.samplers import Denoiser, NoiseSchedule, build, sample
from fewstep.samplers.learned.learning import learn
from fewstep.samplers.learned.methods.dc import learned_ratios
from fewstep.samplers.ratios.cascade import cascade, covers, foretold
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
    "dtype": "float64", "rivals": False, "batch_size": 256, "solver_options": {"order": 3, "corrector": True, "lower_order_final": "zero"},
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
    made = learnt([4, 5, 7], [1.0, 3.0])
    made = Artefact.from_dict(made.to_dict())
    told = made.model["cascade"]
    assert [(one["nfe"], one["guidance"]) for one in told["tested"]] == [(5, 1.0), (5, 3.0)]
    assert all(one["foretold"] > 0 and one["holds"] in (True, False) for one in told["tested"])
    table = made.table(6, 2.0)
    assert table.nfe == 6 and table.name == "unipc"
    assert (table.W == foretold(told, made.schedule, 6, 2.0).W).all() and (table.W != made.table(5, 1.0).W[:1]).any()
    x = made.schedule.initial_noise((4, 16), torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.isfinite(sample(guided(2.0), x, made, nfe=6, guidance=2.0)).all()
    with pytest.raises(ValueError, match="no table for nfe 9"):
        made.table(9, 2.0)
    with pytest.raises(ValueError, match="beyond what this artefact"):
        made.table(5, 4.0)
    fails = replace(made, model={**made.model, "cascade": {**told, "holds": False}})
    with pytest.raises(ValueError, match="no table for nfe 6"):
        fails.table(6, 2.0)


@pytest.mark.parametrize(("nfe", "scales"), [([5], [1.0]), ([2, 1], [1.0, 2.0])])
def test_a_cascade_of_one_place_is_refused_before_any_call(nfe: list[int], scales: list[float]) -> None:
    with pytest.raises(ValueError, match="fitted over several places"):
        learnt(nfe, scales)


@pytest.mark.slow
def test_unseen_places_are_within_a_tenth_of_what_is_learned_there() -> None:
    made = learnt([5, 6, 8, 10, 12], [1.0, 2.0, 3.0, 4.0, 5.0], seeds=range(256))
    told = made.model["cascade"]
    for nfe, scale in [(7, 2.5), (9, 1.5), (9, 3.5), (11, 4.5), (7, 4.5)]:
        t = task(guided(scale), (16,), nfe, train=192, valid=512)
        table = made.table(nfe, scale)
        base = compensated(table, [1.0] * nfe)
        own = {**told["base"], "options": told["base"]["options"]}
        from_base = foretold({**told, "cascade": {**told["cascade"], "ratio": (1.0, 1.0)}}, made.schedule, nfe, scale)
        learned = compensated(from_base, learned_ratios(t, from_base, own["time"]), own["time"])
        assert t.judge(table) <= 1.1 * t.judge(learned), (nfe, scale)
        assert base is table
