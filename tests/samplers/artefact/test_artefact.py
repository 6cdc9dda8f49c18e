"""An artefact plays only where it belongs, and between guidance scales and numbers of evaluations as it says."""

import numpy as np
import pytest
import torch
from learnt import BETAS, DISCRETE, SCHEDULES, VP, artefact, exact, guided, learned_table
from problems import Mixture, starts

from fewstep import Artefact, sample
from fewstep.samplers import Learned, NoiseSchedule
from fewstep.samplers.artefact.corrections import base_of, between, corrections
from fewstep.samplers.building.resuming import boundaries


def test_sample_finds_the_table():
    made, x = artefact(DISCRETE, 4, 6), starts(DISCRETE, 1.0)
    denoiser = Mixture().denoiser(DISCRETE)
    for nfe in (4, 6):
        assert torch.equal(sample(denoiser, x, made, nfe), sample(denoiser, x, made.table(nfe)))
    assert torch.equal(sample(denoiser, x, artefact(DISCRETE, 5)), sample(denoiser, x, artefact(DISCRETE, 5), 5))
    assert denoiser.nfe == 4 * 2 + 6 * 2 + 5 * 2
    many = guided()
    assert torch.equal(sample(denoiser, x, many, guidance=3.0), sample(denoiser, x, many.tables[1].tableau))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"nfe": 5}, r"no table for nfe 5, only for nfe 4, 6.*outside=\"base\""),
        ({}, "tables for nfe 4, 6: say which"),
        ({"nfe": 4, "guidance": 2.0}, "no part of what this artefact learned"),
        ({"nfe": 4, "grid": "karras"}, "already compiled"),
        ({"nfe": 4, "order": 2}, "already compiled"),
    ],
)
def test_sample_refuses_what_the_artefact_has_not(how, said):
    denoiser = Mixture().denoiser(DISCRETE)
    with pytest.raises(ValueError, match=said):
        sample(denoiser, starts(DISCRETE, 1.0), artefact(DISCRETE, 4, 6), **how)
    assert denoiser.nfe == 0


def test_guidance_without_an_artefact_is_refused():
    with pytest.raises(ValueError, match="chooses a table of a learned artefact"):
        sample(Mixture().denoiser(VP), starts(VP, 1.0), "ddim", 5, guidance=3.0)


@pytest.mark.parametrize(
    ("guidance", "said"),
    [(None, "guidance 1, 3: say which"), (7.0, "7.0 is beyond .*guidance 1, 3.*clamp"), (0.0, "0.0 is beyond")],
)
def test_guidance_outside_its_range_is_refused(guidance, said):
    with pytest.raises(ValueError, match=said):
        guided().table(5, guidance)


def test_another_model_is_refused_with_the_way_to_override():
    made, x = artefact(DISCRETE, 5), starts(VP, 1.0)
    with pytest.raises(ValueError, match=r"learned on Discrete.*hash \w{12}.*VPLinear.*hash \w{12}.*strict=False"):
        sample(Mixture().denoiser(VP), x, made)
    with pytest.raises(ValueError, match="learned on 'epsilon'; this model has 'sample' predictions.*strict=False"):
        sample(Mixture().denoiser(DISCRETE, "sample"), x, made)
    with pytest.warns(UserWarning, match="gain was not measured"):
        table = made.table(5, prediction="sample", strict=False)
    assert np.array_equal(table.W, made.table(5).W)


def test_a_schedule_off_by_rounding_is_the_same():
    near = NoiseSchedule.discrete(np.cumprod(1 - BETAS) * (1 + 1e-15))
    assert near != DISCRETE and artefact(DISCRETE, 5).is_for(near)
    assert not artefact(DISCRETE, 5).is_for(NoiseSchedule.discrete(np.cumprod(1 - BETAS * 1.001)))


def test_another_shape_is_said():
    made = Artefact((Learned(learned_table(VP)),), {"prediction": "epsilon", "shape": (3,)})
    with pytest.warns(UserWarning, match=r"shape \(3,\), played on \(2,\)"):
        sample(Mixture().denoiser(VP), starts(VP, 1.0), made)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Artefact((), {"prediction": "epsilon"}), "at least one"),
        (lambda: Artefact((Learned(learned_table(VP)),) * 2, {"prediction": "epsilon"}), "one table for each"),
        (
            lambda: Artefact((Learned(learned_table(VP)), Learned(learned_table(VP, 4), 2.0)), {"prediction": "x"}),
            "all or",
        ),
        (
            lambda: Artefact((Learned(learned_table(VP)), Learned(learned_table(DISCRETE, 4))), {"prediction": "x"}),
            "one sch",
        ),
        (lambda: Artefact((Learned(learned_table(VP)),), {}), "name the prediction"),
        (lambda: Learned(learned_table(VP), status="better"), '"no-gain"; got'),
        (lambda: Learned(learned_table(VP), float("nan")), "finite number"),
        (lambda: Learned("dpmpp_2m"), "must be a Tableau"),
        (lambda: artefact(VP, 5).table(outside="nearest"), "`outside` must be one of"),
        (lambda: artefact(VP, 5).table(6, outside="clamp"), "no table for nfe 6"),
        (lambda: artefact(VP, 5).table(6.5, outside="base"), "no table for nfe 6.5"),
    ],
)
def test_what_makes_no_artefact_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# beyond the tables


@pytest.mark.parametrize("nfe", [3, 5, 7, 12])
def test_the_base_on_the_learned_grid_for_another_nfe(nfe):
    made = artefact(DISCRETE, 4, 8)
    table = made.table(nfe, outside="base")
    near = made.table(4 if nfe < 6 else 8)
    assert table.nfe == nfe and np.array_equal(base_of(table).W, table.W)
    assert (table.times[0], table.times[-1]) == (near.times[0], near.times[-1])
    place = np.interp(table.times[::-1], near.times[::-1], np.arange(near.nfe, -1, -1))[::-1]
    assert (
        np.abs(np.diff(place) - near.nfe / nfe) < 0.25 * near.nfe / nfe
    ).all()  # as dense, relative to the learned one


@pytest.mark.parametrize("schedule", [VP, DISCRETE, SCHEDULES["flow"]], ids=["vp", "discrete", "flow"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "deis", "dpmpp_2m_sde"])
def test_between_two_guidance_scales(solver, schedule):
    made = guided(schedule, solver=solver)
    low, high = (t.tableau for t in made.tables)
    middle = made.table(guidance=2.0)
    lam = [schedule.lam(boundaries(t)) for t in (low, middle, high)]
    inner = np.isfinite(lam[0])
    assert np.allclose(lam[1][inner], (0.5 * (lam[0] + lam[2]))[inner], rtol=0, atol=1e-7)
    assert np.allclose(corrections(middle), 0.5 * (corrections(low) + corrections(high)), rtol=0, atol=1e-9)
    offset = [t.model_times - base_of(t).model_times for t in (low, middle, high)]
    assert np.allclose(offset[1], 0.5 * (offset[0] + offset[2]), rtol=0, atol=1e-9)
    assert middle.conserves == low.conserves
    for share, end in ((1e-12, low), (1 - 1e-12, high)):
        near = between(low, high, share)
        assert np.allclose(near.W, end.W, atol=1e-8) and np.allclose(near.model_times, end.model_times, rtol=1e-8)
    x = starts(schedule, schedule.t_max)
    assert torch.isfinite(sample(exact(schedule), x, made, guidance=1.7, noise_seeds=range(16))).all()


def test_beyond_and_between_what_was_learned_together():
    made = guided()
    low, high = (t.tableau for t in made.tables)
    assert made.table(guidance=9.0, outside="clamp") is high and made.table(guidance=0.5, outside="clamp") is low
    assert np.array_equal(made.table(guidance=9.0, outside="base").W, base_of(high).W)
    other = Learned(learned_table(DISCRETE, lower_order_final=False), 3.0)
    mixed = Artefact((made.tables[0], other), {"prediction": "epsilon"})
    with pytest.raises(ValueError, match=r"nothing between.*lower_order_final=True.*lower_order_final=False.*clamp"):
        mixed.table(guidance=2.5)
    assert mixed.table(guidance=2.5, outside="clamp") is other.tableau


def test_a_base_that_changed_since_can_be_played_but_not_moved():
    old = tuple(Learned(t.tableau, t.guidance, {"hash": "0" * 64}) for t in guided().tables)
    made = Artefact(old, {"prediction": "epsilon"})
    assert made.table(guidance=1.0) is old[0].tableau
    with pytest.raises(ValueError, match="had other weights in fewstep.*Learn it again"):
        made.table(guidance=2.0)
    with pytest.raises(ValueError, match="had other weights"), pytest.warns(UserWarning, match="not measured"):
        made.table(guidance=1.0, schedule=VP, strict=False)
