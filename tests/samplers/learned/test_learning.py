"""`learn`: never worse, always the same, stopped and found again, and clear about what it cannot do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learned_problems import ring, sixteen
from pipelines import PIPELINES

import fewstep
from fewstep.samplers import Denoiser, NoiseSchedule, Tableau, build, sample
from fewstep.samplers.learned.learning import learn
from fewstep.samplers.learned.learning_run import _drawn
from fewstep.samplers.learned.playing.arithmetic import corrected
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.recipes import recipes
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.tasks import guard
from fewstep.samplers.learned.tasks.each_guidance import under_each
from fewstep.samplers.learned.tasks.learner_entry import METHODS, learner
from fewstep.samplers.learned.tasks.learner_task import Progress, Task, score
from fewstep.samplers.learned.tasks.screening import ROUNDS
from fewstep.samplers.pipeline import source

SMALL: dict[str, Any] = {
    "shape": (2,), "dtype": torch.float64, "cache": False, "progress": False, "batch_size": 128,
    "seeds": range(96), "guard_seeds": range(1000, 1128), "teacher": {"nfe": 120}, "rivals": False,
}  # fmt: skip


def run(method: Any = "iia", nfe: Any = 5, **how: Any) -> Any:
    return learn(ring(), "dpmpp_2m", nfe, method, **{**SMALL, **how})


def text(artefact: Any, folder: Path) -> str:
    artefact.save(folder / "a.json")
    return (folder / "a.json").read_text()


@pytest.fixture
def cheat(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A method that looks perfect on the seeds it may choose on and is worse everywhere else."""

    @learner("cheat", learns=("coef",), reference="none")
    def perfect(task: Task, start: Tableau) -> Tableau:
        worse = corrected(start, np.array([[0.0, 0.0]] + [[0.3, -0.3]] * (start.nfe - 1)))
        judge = task.judge
        monkeypatch.setattr(task, "judge", lambda table: 0.0 if table is worse else judge(table))
        return worse

    yield "cheat"
    METHODS.remove("cheat")


def test_a_gain_is_real() -> None:
    """The errors in the report are those that anybody measures with the table on the guard's seeds."""
    artefact = run()
    (one,) = artefact.tables
    told = one.report
    assert one.status == "learned" and told["test"]["gain"]["interval"][1] < 1
    denoiser = ring()
    seeds = [torch.Generator().manual_seed(s) for s in SMALL["guard_seeds"]]
    x_T = denoiser.schedule.initial_noise((128, 2), seeds, dtype=torch.float64)
    truth = sample(denoiser, x_T, "dpmpp_3m", 120, lower_order_final=False)
    errors = (sample(denoiser, x_T, artefact) - truth).square().mean(1).sqrt()
    assert told["learned"]["test"]["median"] == pytest.approx(float(errors.median()), rel=0.05)
    assert told["learned"]["test"]["median"] < 0.7 * told["best_fixed"]["test"]["median"]
    finite = json.loads(json.dumps(told))
    assert finite["size"]["learned"]["bf16"] > 0 and finite["size"]["learned"]["largest_weight"] < 10


def test_a_cheat_is_not_believed(cheat: str) -> None:
    """What only looked better is measured on untouched seeds, and the best fixed recipe comes back."""
    (one,) = run(cheat).tables
    assert one.status == "no-gain" and one.report["test"]["gain"]["ratio"] > 1
    fixed = {str(r): r.table for r in recipes("dpmpp_2m", ring().schedule, 5)}
    best = fixed[one.report["best_fixed_recipe"]]
    np.testing.assert_array_equal(one.tableau.W, best.W)
    np.testing.assert_array_equal(one.tableau.times, best.times)
    assert one.report["best_fixed_recipe"] == min(one.report["fixed"], key=one.report["fixed"].get)


@pytest.mark.slow
def test_same_spec_same_file(tmp_path: Path) -> None:
    first = text(run(["iia", "d_ode"], [4, 6]), tmp_path)
    assert first == text(run(["iia", "d_ode"], [4, 6]), tmp_path)
    assert first != text(run(["iia", "d_ode"], [4, 6], seeds=range(1, 97)), tmp_path)
    cached = {"cache": tmp_path / "cache"}
    assert first == text(run(["iia", "d_ode"], [4, 6], **cached), tmp_path)
    assert first == text(run(["iia", "d_ode"], [4, 6], **cached), tmp_path)


def test_what_was_drawn_is_told(tmp_path: Path) -> None:
    """Classes, prompt, guidance and dtype are part of the file, the same however they were given."""
    assert run().provenance["samples"] == {"dtype": "float64"}
    how = {**SMALL, "seeds": range(32), "guard_seeds": range(1000, 1032)}
    assert learn({2.0: ring(), 1.0: ring()}, "dpmpp_2m", 3, "iia", **how).provenance["samples"]["guidance"] == [
        1.0,
        2.0,
    ]
    told = [_drawn(Problem("demo", classes=c)) for c in (None, range(10), list(range(10)), torch.arange(10), (3, 8))]
    assert told[:4] == 4 * [{"classes": {"from": 0, "to": 10}, "dtype": "float32"}] and told[4]["classes"] == [3, 8]
    problem = Problem("demo")
    for prompt in ("a digit", ["a digit"], ("a digit",)):
        problem._source.wishes = {"classes": None, "prompt": prompt, "guidance": None}
        assert json.loads(json.dumps(_drawn(problem))) == {"prompt": ["a digit"], "dtype": "float32"}


@pytest.mark.parametrize("given", [torch.bfloat16, "bfloat16"])
@pytest.mark.slow
def test_dtype_of_what_is_loaded(given: Any) -> None:
    """Names and dtypes say the same; a reference run in one is not taken for one in another."""
    problem, plain = Problem("demo", dtype=given), Problem("demo")
    assert (problem.dtype, plain.dtype) == (torch.bfloat16, torch.float32)
    assert next(problem._source.pipe.unet.parameters()).dtype == torch.bfloat16
    assert Teacher(problem, cache=False).key != Teacher(plain, cache=False).key
    x0 = problem.draw(build("dpmpp_2m", problem.schedule, 2), problem.part([0]))
    assert x0.dtype == torch.bfloat16 and torch.isfinite(x0).all()


@pytest.mark.parametrize(
    ("model", "dtype", "said"),
    [
        ("demo", "float8", "floating point one, such as"),
        ("demo", torch.int64, "got torch.int64"),
        (ring(), "double precision", "got 'double precision'"),
        ("pipeline", "bfloat16", "this pipeline computes in torch.float32"),
    ],
)
def test_dtypes_that_do_not_fit(model: Any, dtype: Any, said: str) -> None:
    model = fewstep.load_demo_pipeline() if model == "pipeline" else model
    with pytest.raises(ValueError, match=said):
        Problem(
            model,
            shape=(2,) if isinstance(model, Denoiser) else None,
            classes=None if isinstance(model, Denoiser) else [3],
            dtype=dtype,
        )


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [("iia", 4), pytest.param(("d_ode", 6), marks=pytest.mark.slow)])
def test_killed_and_resumed(tmp_path: Path, at: tuple[str, int]) -> None:
    expected = text(run(["iia", "d_ode"], [4, 6]), tmp_path)

    def kill(p: Progress) -> None:
        if (p.stage, p.table.nfe) == at:
            raise Killed

    with pytest.raises(Killed):
        run(["iia", "d_ode"], [4, 6], resume=tmp_path / "state", progress=kill)
    calls: list[str] = []
    again = run(["iia", "d_ode"], [4, 6], resume=tmp_path / "state", progress=lambda p: calls.append(p.stage))
    assert text(again, tmp_path) == expected and calls
    other = run(["iia", "d_ode"], [4, 6], resume=tmp_path / "state", seeds=range(1, 97))
    assert text(other, tmp_path) != expected  # another spec finds nothing of this one


def test_ctrl_c_gives_the_best_so_far() -> None:
    def stop(p: Progress) -> None:
        if p.stage == "d_ode":
            raise KeyboardInterrupt

    (one,) = run(["iia", "d_ode", "iia"], progress=stop).tables
    assert [s["method"] for s in one.stages] == ["iia", "d_ode"] and one.stages[-1]["interrupted"]
    np.testing.assert_array_equal(one.tableau.W, run("iia").tables[0].tableau.W)


def test_a_model_is_loaded_and_hashed_once_for_all_guidances(monkeypatch: pytest.MonkeyPatch) -> None:
    loads, load = [], source.load_pipeline
    monkeypatch.setattr(source, "load_pipeline", lambda *how: loads.append(how) or load(*how))
    table = build("dpmpp_2m", Problem("demo").schedule, 3)
    alone = [Problem("demo", guidance=g) for g in (1.0, 3.0)]
    loads.clear()
    for one, other in zip(alone, under_each("demo", (1.0, 3.0)), strict=True):
        assert (other.guidance, other.condition, other.fingerprint) == (one.guidance, one.condition, one.fingerprint)
        assert torch.equal(other.draw(table, other.part([0, 1])), one.draw(table, one.part([0, 1])))
        assert other.spent == one.spent == 6 and other.name == "demo"
    assert len(loads) == 1
    with pytest.raises(ValueError, match="takes no"):
        next(iter(under_each(PIPELINES["ddpm"].make()[0], (None,)))).under(2.0)


@pytest.mark.slow
def test_several_guidances_and_evaluations(tmp_path: Path) -> None:
    """A denoiser for each scale gives a table for each (nfe, guidance), which `sample` picks from."""
    how = {**SMALL, "seeds": range(64), "guard_seeds": range(1000, 1064)}
    artefact = learn({1.0: ring(), 3.0: ring()}, "dpmpp_2m", (3, 5), "iia", **how)
    assert artefact.nfes == (3, 5) and artefact.guidances == (1.0, 3.0)
    artefact.save(tmp_path / "g.json")
    back = fewstep.load(tmp_path / "g.json")
    x = ring().schedule.initial_noise((4, 2), torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = (sample(ring(), x, which, 5, guidance=3.0) for which in (artefact, back))
    assert torch.equal(a, b)


@pytest.mark.parametrize("schedule", [NoiseSchedule.flow(), NoiseSchedule.edm()], ids=["flow", "edm"])
def test_other_schedules(schedule: NoiseSchedule) -> None:
    (one,) = learn(ring(schedule), "dpmpp_2m", 5, "iia", **SMALL).tables
    assert one.status == "learned" and one.report["test"]["gain"]["ratio"] < 0.8


@pytest.mark.slow
def test_best_of_several_solvers() -> None:
    """solver="auto" compares with the best recipes of a few solvers, picked on few seeds: as good as the best of one solver."""
    one, several = (learn(ring(), s, 5, "d_ode", **SMALL).tables[0].report["fixed"] for s in ("dpmpp_2m", "auto"))
    assert len(several) == ROUNDS[-1][1] <= len(one) and len({name.split()[0] for name in several}) > 1
    assert min(several.values()) <= min(one.values())


def test_nothing_is_left_by_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "five.json"
    run().save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not converged"):
        run(teacher={"nfe": 6}).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"method": "ld4"}, "unknown method 'ld4'"),
        ({"method": "iia", "windows": 3}, "method 'iia' has no option 'windows'; its options: window"),
        ({"method": "auto", "window": 3}, "method 'auto' has no option 'window'"),
        ({"method": ["iia"], "window": 3}, "give options beside their stage"),
        ({"nfe": 0}, "at least 1"),
        ({"nfe": [5, 5]}, "several different ones"),
        ({"nfe": 2.5}, "whole number"),
        ({"seeds": range(4)}, "at least 8 `seeds`"),
        ({"guard_seeds": range(90, 200)}, "the guard's must be untouched"),
        ({"seeds": [1] * 20}, "repeat them"),
        ({"solver_options": {"oder": 2}}, "no option 'oder'"),
        ({"shape": None}, "`shape` is missing"),
        ({"teacher": {"solver": "dpmpp_9m"}}, "unknown solver"),
    ],
)
def test_bad_input(how: dict[str, Any], said: str) -> None:
    calls: list[int] = []
    denoiser = ring()
    inner = denoiser.fn
    denoiser.fn = lambda x, tau: calls.append(1) or inner(x, tau)
    given = {"nfe": 5, "method": "iia", **SMALL, **how}
    with pytest.raises(ValueError, match=said):
        learn(denoiser, "dpmpp_2m", given.pop("nfe"), given.pop("method"), **given)
    assert not calls


def test_drivers_cannot_be_learned() -> None:
    with pytest.raises(ValueError, match="learn on a solver that is a table"):
        learn(ring(), "dpm_adaptive", 5, "iia", **SMALL)


# The guard


def test_intervals_of_ratios_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    """The true gain lies in the 95 % interval in about 95 % of draws."""
    monkeypatch.setattr(guard, "DRAWS", 300)
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        common = rng.normal(size=200)
        a, b = (torch.from_numpy(np.exp(2 * (common + s + 0.3 * rng.normal(size=200)))) for s in (-0.1, 0.0))
        low, high = guard.compared(a, b)["gain"]["interval"]
        hits += low < np.exp(-0.1) < high
    assert 180 <= hits <= 199


def test_what_counts_as_certain() -> None:
    ones = torch.ones(100, dtype=torch.float64)
    better = guard.compared(0.5 * ones, ones)
    assert guard.certain(better) and better["gain"]["ratio"] == pytest.approx(0.5**0.5) and better["worse"] == 0
    assert not guard.certain(guard.compared(ones, ones)) and not guard.certain(guard.compared(2 * ones, ones))
    few = ones.clone()
    few[0] = 1e4  # one is lost, as with other seeds another: no single sample decides
    assert guard.certain(guard.compared(0.5 * few, ones)) and guard.compared(0.5 * few, ones)["rms"]["ratio"] > 5
    few[:4] = 1e4  # most gain a lot, four of a hundred are lost
    assert not guard.certain(guard.compared(0.5 * few, ones))


def test_score_sees_median_and_rms() -> None:
    errors = torch.tensor([1.0, 1.0, 4.0], dtype=torch.float64)
    assert score(errors) == pytest.approx((2.0**0.5) ** 0.5)
    assert score(torch.tensor([1.0, float("inf")])) == float("inf")


def test_teacher_error_is_told() -> None:
    told = run().tables[0].report
    assert 0 < told["teacher_error"] < 0.05 * told["best_fixed"]["validation"]["rms"]


def test_recipes_are_different_tables() -> None:
    found = recipes("unipc", NoiseSchedule.vp_linear(), 5)
    keys = {r.table.W.tobytes() + r.table.times.tobytes() for r in found}
    assert len(keys) == len(found) > 10
    (one,) = recipes("dpmpp_2m_karras", NoiseSchedule.vp_linear(), 5, options={"lower_order_final": True})
    expected = build("dpmpp_2m", NoiseSchedule.vp_linear(), 5, "karras", lower_order_final=True)
    np.testing.assert_array_equal(one.table.W, expected.W)


def test_sixteen_dimensions() -> None:
    (one,) = learn(sixteen(), "dpmpp_2m", 5, "iia", **{**SMALL, "shape": (16,)}).tables
    assert one.report["test"]["rms"]["ratio"] < 0.8
