"""An artefact keeps every bit, plays only where it belongs, and moves between models and guidance scales by log-SNR."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from late import diffusers
from learnt import ALL, artefact, learned_table
from pipelike import Network
from pipelike import run as piped
from problems import Mixture, starts

import fewstep
from fewstep import Artefact, sample
from fewstep.samplers import Learned, NoiseSchedule, Statistics, build
from fewstep.samplers.artefact.corrections import base_of, between, corrections, remapped
from fewstep.samplers.building.resuming import boundaries

BETAS = np.linspace(1e-4, 0.02, 1000)
VP = NoiseSchedule.vp_linear()
DISCRETE = NoiseSchedule.discrete(np.cumprod(1 - BETAS))
SCHEDULES = {"vp": VP, "edm": NoiseSchedule.edm(), "flow": NoiseSchedule.flow(3.0), "discrete": DISCRETE}


def statistics(shape=(64, 64), seed=0):
    """Of every element, and not small."""
    random = np.random.default_rng(seed)
    l, s, b = (0.1 * random.standard_normal((4, *shape)) for _ in range(3))  # noqa: E741
    return Statistics(np.array([-20.0, -5, 5, 20]), 1 + 0 * l, s, b, {"seed": seed})


def exact(schedule):
    """A network of a prediction type that also tells at alpha = 0."""
    return Mixture().denoiser(schedule, prediction(schedule))


def prediction(schedule):
    return "flow_prediction" if schedule.kind == "flow" else "epsilon"


def guided(schedule=DISCRETE, nfe=5, scales=(1.0, 3.0), **how):
    tables = tuple(Learned(learned_table(schedule, nfe, seed=i, **how), scale) for i, scale in enumerate(scales))
    return Artefact(tables, {"prediction": prediction(schedule)})


def error(x, reference):
    return float((x - reference).square().mean().sqrt())


# on disk


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("solver", ["dpmpp_2m", "deis", "unipc", "dpmpp_2m_sde", "heun"])
def test_save_and_load_keep_every_bit(solver, schedule, tmp_path):
    moved = ("grid", "tau") if solver == "heun" else ALL
    made = artefact(schedule, 4, 6, prediction=prediction(schedule), solver=solver, moved=moved)
    made.save(tmp_path / "a.json")
    back = fewstep.load(tmp_path / "a.json")
    back.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert back == made and hash(back) == hash(made) and len({made, back, artefact(schedule, 4)}) == 2
    x = starts(schedule, schedule.t_max)
    for nfe in (4, 6):
        for name in ("W", "times", "model_times"):
            assert np.array_equal(getattr(back.table(nfe), name), getattr(made.table(nfe), name))
        ends = [sample(exact(schedule), x, a, nfe, noise_seeds=range(16)) for a in (made, back)]
        assert torch.equal(*ends)
    assert back.model == made.model and back.provenance == made.provenance and back.report == made.report


def test_the_file_shows_what_is_inside(tmp_path):
    artefact(DISCRETE, 5).save(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert (content["format"], content["version"], content["domain"]) == (
        "fewstep.artefact",
        1,
        {"nfe": [5], "guidance": []},
    )
    (table,) = content["tables"]
    made = artefact(DISCRETE, 5).table()
    assert table["kind"] == "joint" and table["status"] == "learned" and table["base"]["solver"] == "dpmpp_2m"
    assert table["sigma"] == made.nodes.sigma.tolist() and table["tau"] == made.model_times.tolist()
    assert table["lambda"][:-1] == made.nodes.lam[:-1].tolist() and table["lambda"][-1] is None
    assert table["safety"]["consistent"] and 0 < table["safety"]["smallest_gap"] < 5
    assert table["safety"]["largest_weight"] == np.abs(made.W[:, :, 2:5]).max()
    assert "schedule" not in table["tableau"] and content["model"]["schedule"]["class"] == "Discrete"


def test_weights_of_the_result_bound_what_an_error_does():
    """Errors of one in every output move the result by at most the sum of the absolute weights, and by it at worst."""
    from fewstep.samplers.artefact.learned_table import safety, weights_of_result

    table = learned_table(VP, 6, seed=3, solver="abnorsett")
    weights = weights_of_result(table)
    signs, calls = np.sign(weights), iter(range(6))
    denoiser = fewstep.Denoiser(lambda x, tau: torch.full_like(x, signs[next(calls)]), VP, "sample")
    out = sample(denoiser, torch.zeros(1, 1, dtype=torch.float64), table)
    assert float(out) == pytest.approx(np.abs(weights).sum()) == pytest.approx(safety(table)["weights_of_result"])


@pytest.mark.parametrize("moved", [(), ("grid",), ("coef",), ("tau",), ("grid", "coef"), ALL])
def test_the_kind_is_what_was_moved(moved):
    learned = Learned(learned_table(DISCRETE, moved=moved), base={"grid": "trailing"})
    assert learned.moved == moved
    assert learned.kind == (moved[0] if len(moved) == 1 else "joint" if moved else "base")


def test_a_base_grid_may_be_given_by_times():
    times = build("dpmpp_2m", VP, 5, "karras").times
    assert Learned(build("dpmpp_2m", VP, 5, "karras"), base={"grid": times}).kind == "base"
    assert Learned(build("dpmpp_2m", VP, 5, "karras"), base={"grid": "uniform"}).kind == "grid"


def test_an_interrupted_save_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    artefact(VP, 5).save(path)
    before = path.read_bytes()

    def broken(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", broken)
        artefact(VP, 6).save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ValueError, match="numbers, text"):
        Artefact((Learned(learned_table(VP)),), {"prediction": "epsilon"}, {"when": object()})


def elementwise():
    table = build("dpm_solver_v3", DISCRETE, 3, statistics=statistics())
    return Artefact(
        (Learned(table), Learned(build("dpm_solver_v3", DISCRETE, 2, statistics=statistics()))),
        {"prediction": "epsilon", "shape": [64, 64]},
    )


def test_weights_of_every_element_go_to_a_file_beside(tmp_path):
    made = elementwise()
    made.save(tmp_path / "a.json")
    (beside,) = tmp_path.glob("*.safetensors")
    assert (tmp_path / "a.json").stat().st_size < 60_000 < beside.stat().st_size
    back = fewstep.load(tmp_path / "a.json")
    assert back == made and back.table(3).elementwise
    assert np.array_equal(back.table(3).W, made.table(3).W)
    assert np.array_equal(back.table(3).options["statistics"].b, statistics().b)
    (tmp_path / "again").mkdir()
    back.save(tmp_path / "again" / "a.json")
    for name in ("a.json", beside.name):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert Artefact.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    with pytest.raises(ValueError, match=r"weights for every element.*\(64, 64\).*\(8, 8\)"):
        made.table(3, shape=(8, 8))


def test_a_missing_or_changed_file_beside_is_refused(tmp_path):
    elementwise().save(tmp_path / "a.json")
    (beside,) = tmp_path.glob("*.safetensors")
    data = beside.read_bytes()
    beside.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match="hash differs"):
        fewstep.load(tmp_path / "a.json")
    beside.unlink()
    with pytest.raises(ValueError, match=f"needs {beside.name} beside it"):
        fewstep.load(tmp_path / "a.json")


def change(content, *path, value):
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: change(c, "version", value=99), "newer fewstep.*version 99.*Upgrade"),
        (lambda c: change(c, "format", value="other.table"), "not a saved table"),
        (lambda c: change(c, "tables", 0, "tableau", "W", 1, 1, 2, value=0.7), "changed or damaged"),
        (lambda c: change(c, "tables", 0, "tableau", "times", 1, value=0.9), "changed or damaged"),
        (lambda c: change(c, "model", "prediction", value="sample"), "changed or damaged"),
        (lambda c: c.pop("tables"), "changed or damaged"),
        (lambda c: c.pop("hash"), "incomplete or damaged"),
        (lambda c: change(c, "version", value="one"), "incomplete or damaged"),
    ],
)
def test_a_damaged_newer_or_foreign_file_is_refused(damage, said, tmp_path):
    path = tmp_path / "a.json"
    artefact(VP, 5).save(path)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said):
        fewstep.load(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(share, tmp_path):
    path = tmp_path / "a.json"
    artefact(VP, 5).save(path)
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(ValueError, match="not a saved table"):
        fewstep.load(path)


def test_playing_imports_no_learner():
    code = "import sys, fewstep; fewstep.sample, fewstep.Artefact; print([m for m in sys.modules if 'learned.' in m])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# what fits


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


# other schedules


@pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_3m", "unipc", "dpmpp_2m_sde"])
def test_where_lam_is_kept_the_samples_are_the_same(solver):
    """x' = (alpha' / alpha) x: the same network in another schedule's units."""
    times = np.array([0.9, 0.7, 0.45, 0.3, 0.1, 0.02])
    table = learned_table(VP, 5, moved=("coef",), solver=solver, grid=times)
    flow = NoiseSchedule.flow()
    moved = remapped(table, flow)
    assert np.allclose(moved.nodes.lam, table.nodes.lam, rtol=0, atol=1e-9)
    x, problem = starts(VP, 0.9), Mixture()
    k = moved.nodes.alpha / table.nodes.alpha
    want = sample(problem.denoiser(VP), x, table, noise_seeds=range(16)) * k[-1]
    got = sample(problem.denoiser(flow), x * k[0], moved, noise_seeds=range(16))
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)


def test_another_representation_of_the_same_model():
    """A table of training steps played on the continuous schedule of the same betas, and back."""
    problem, linear = Mixture(), NoiseSchedule.vp_linear(0.1, 20.0)
    x = starts(VP, 1.0, 256)
    for here, there in ((DISCRETE, linear), (linear, DISCRETE)):
        made = artefact(here, 6, size=0.005)
        with pytest.warns(UserWarning, match="moved|not measured"):
            table = made.table(6, schedule=there, strict=False)
        assert (table.times[0], table.times[-1]) == (there.t_max, there.t_end) and table.conserves == "x0 eps"
        reference = sample(problem.denoiser(here), x, "dpmpp_3m", 300)
        own = error(sample(problem.denoiser(here), x, made), reference)
        moved = error(sample(problem.denoiser(there), x, table), reference)
        plain = error(sample(problem.denoiser(there), x, base_of(table)), reference)  # the solver itself, to that end
        assert moved < 1.15 * max(own, plain) + 0.02


def test_moving_back_gives_the_table_back():
    table = learned_table(DISCRETE, moved=ALL)
    there = NoiseSchedule.flow(2.0)
    made = Artefact((Learned(table),), {"prediction": "epsilon"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back = made.remapped(there).remapped(DISCRETE)
    assert np.allclose(back.table().W, table.W, atol=1e-7) and np.allclose(back.table().model_times, table.model_times)
    assert back.model["learned_on"] == made.model["schedule_hash"]


def test_what_a_schedule_does_not_reach_is_refused():
    narrow = NoiseSchedule.ve(1.0, 3.0)
    with pytest.raises(ValueError, match=r"boundaries.*reach beyond VE"):
        remapped(learned_table(DISCRETE), narrow)
    with pytest.raises(ValueError, match=r"\(2, 2, 2\) calls, do not fit Discrete.*\(2, 2, 1, 1\)"):
        remapped(build("heun", VP, 6), DISCRETE)
    with pytest.raises(ValueError, match="mean-reverting"):
        remapped(learned_table(VP), NoiseSchedule.mean_reverting())
    with pytest.raises(ValueError, match="cannot be moved: it would have output 0 as x0 in place of eps"):
        eps = replace(learned_table(VP, moved=(), solver="deis"), conserves="")
        W = eps.W.copy()
        W[1, :, 3] += 0.1
        remapped(replace(eps, W=W), NoiseSchedule.flow())


# for other programs


def exported(made, **config):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return made.to_diffusers(**config)


CONFIG = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}


def grid_only(schedule, solver, **options):
    return Artefact(
        (Learned(learned_table(schedule, 6, moved=("grid",), solver=solver, **options)),), {"prediction": "epsilon"}
    )


def test_a_learned_grid_in_a_stock_multistep_scheduler():
    made = grid_only(DISCRETE, "dpmpp_2m")
    stock = diffusers.DPMSolverMultistepScheduler(**CONFIG, algorithm_type="dpmsolver++")
    stock.set_timesteps(timesteps=exported(made)["timesteps"])
    whole = DISCRETE.time_of_model(np.array(exported(made)["timesteps"], float))
    table = build("dpmpp_2m", DISCRETE, 6, [*whole, 0.0], limiter=False)
    x = starts(DISCRETE, 1.0, 4).double()
    want = sample(Mixture().denoiser(DISCRETE), x, table)
    torch.testing.assert_close(
        piped(stock, Network(Mixture(), "epsilon", np.cumprod(1 - BETAS)), x), want, rtol=0, atol=1e-4
    )


def test_a_learned_grid_in_a_stock_euler_scheduler():
    made = grid_only(DISCRETE, "euler")
    stock = diffusers.EulerDiscreteScheduler(**CONFIG)
    stock.set_timesteps(sigmas=exported(made)["sigmas"])
    x = starts(DISCRETE, 1.0, 4).double()
    want = sample(Mixture().denoiser(DISCRETE), x, made)
    first = made.table().nodes
    got = piped(stock, Network(Mixture(), "epsilon", np.cumprod(1 - BETAS)), x / first.alpha[0])
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-4)


def test_a_learned_grid_in_a_stock_flow_scheduler():
    schedule = NoiseSchedule.flow(3.0)
    made = grid_only(schedule, "euler")
    stock = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    stock.set_timesteps(sigmas=exported(made)["sigmas"])
    assert np.allclose(stock.sigmas, made.table().times, atol=1e-6)
    x = starts(schedule, 1.0, 4)
    want = sample(Mixture().denoiser(schedule, "flow_prediction"), x, made.table())
    got = piped(stock, Network(Mixture(), "flow_prediction"), x)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


def test_sigmas_for_custom_samplers():
    for schedule, level in ((DISCRETE, lambda n: n.sigma / n.alpha), (NoiseSchedule.flow(3.0), lambda n: n.sigma)):
        made = grid_only(schedule, "dpmpp_2m")
        sigmas = made.to_comfyui()
        assert np.allclose(sigmas, level(made.table().nodes)) and sigmas[-1] == 0.0 and isinstance(sigmas[0], float)
    with pytest.warns(UserWarning, match="corrections.*and the times shown.*stay behind"):
        artefact(DISCRETE, 5).to_comfyui()
    with pytest.warns(UserWarning, match="corrections of the solver's weights that"):
        Artefact((Learned(learned_table(VP, moved=("coef",))),), {"prediction": "epsilon"}).to_diffusers()


def test_whole_timesteps_stay_distinct():
    table = build("ddim", DISCRETE, 4, [1.0, 0.0025, 0.0022, 0.0018, 0.0])
    steps = exported(Artefact((Learned(table),), {"prediction": "epsilon"}))["timesteps"]
    assert steps == sorted(set(steps), reverse=True) and steps[0] == 999 and steps[-1] >= 0 and len(steps) == 4


def test_it_says_what_it_is():
    made = artefact(DISCRETE, 4, 6)
    text = str(made)
    assert "nfe 4" in text and "nfe 6" in text and "joint" in text and "gain 0.5" in text and "Discrete" in text
    assert made.report == {"nfe 4": {"gain": 0.5}, "nfe 6": {"gain": 0.5}} and artefact(VP, 5).report == {"gain": 0.5}
    assert made.nfes == (4, 6) and made.guidances == () and guided().guidances == (1.0, 3.0)
    assert guided().report == {"nfe 5, guidance 1": {}, "nfe 5, guidance 3": {}}
