"""One registry for all kinds: an outside package registers one of each, and it plays everywhere; bad entries are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import fewstep
from fewstep import Denoiser, NoiseSchedule, adjoint, build, sample
from fewstep.registry import Registry
from fewstep.samplers import GRIDS, SCHEDULES, SOLVERS, Node, Row, Solution, driver, grid, schedule_class, solver
from fewstep.samplers.building.names import resolve

OUTSIDE = Path(__file__).with_name("outside_package.py")
VP = NoiseSchedule.vp_linear()


# From another package, in another process


SCRIPT = """
import json, sys, warnings
import torch
torch.set_num_threads(1)
from click.testing import CliRunner
import fewstep, fewstep.eval as fe
from fewstep import Denoiser, NoiseSchedule, Scheduler, adjoint, build, learn, load, sample
from fewstep.cli import main
from fewstep.samplers import GRIDS, SOLVERS, guidance
from fewstep.samplers.learned import METHODS

told = {"lists": ["outside_euler" in SOLVERS, "outside_grid" in GRIDS, "outside_learner" in METHODS,
                  "outside_guidance" in guidance.GUIDANCE, "outside_metric" in fe.METRICS,
                  "outside_extractor" in fe.EXTRACTORS, list(SOLVERS)[-2:] == ["outside_euler", "outside_driver"]]}
vp = NoiseSchedule.vp_linear()
denoiser = Denoiser(lambda x, tau: 0.5 * x, vp, "sample")
x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
here = sample(denoiser, x, "Outside Euler", 6, grid="outside_grid")
ddim = sample(denoiser, x, "ddim", 6, grid="outside_grid")
told["sample"] = float((here - ddim).abs().max())
told["driver"] = float(sample(denoiser, x, "outside_driver", steps=2).abs().max())
told["table"] = build("outside_euler", vp, 4).nfe
from outside_package import OutsideFlow
build("outside_euler", OutsideFlow(2.0), 3).save("outside.json")
told["stored"] = repr(load("outside.json").schedule)
scheduler = Scheduler.from_config({"beta_schedule": "linear"}, "outside_euler", "outside_grid")
scheduler.set_timesteps(5)
told["scheduler"] = len(scheduler.timesteps)
start = x.clone().requires_grad_()
adjoint.sample(denoiser, start, "outside_euler", 4).sum().backward()
told["adjoint"] = bool(start.grad.abs().sum() > 0)
told["guidance"] = guidance.outside_guidance(denoiser) is denoiser
images = torch.randint(0, 255, (6, 3, 8, 8), dtype=torch.uint8)
report = fe.evaluate(images, images.flip(2) // 2, metrics=("outside_metric",), extractor="outside_extractor", progress=False)
told["metric"] = json.loads(report.to_json())["results"][0]["extractor"]

def run(*words):
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, (words, result.output, result.exception)
    return result.output

told["cli"] = [
    "outside_euler" in run("solvers"), "outside_grid" in run("grids"), "outside_guidance" in run("guidance"),
    "outside_metric" in run("metrics"), "x_t = " in run("solvers", "outside_euler"),
    "outside_euler" in run("sample", "demo", "--solver", "outside_euler", "--grid", "outside_grid", "--nfe", "2", "-n", "2",
                           "--out", "two.png"),
]
run("learn", "demo", "--solver", "outside_euler", "--nfe", "2", "--method", "outside_learner", "-n", "8", "--guard", "8",
    "--classes", "1", "--set", "rounds=2", "--out", "two.json", "--no-cache", "--no-rivals")
told["learn"] = load("two.json").tables[0].tableau.name
print(json.dumps(told))
"""


@pytest.mark.slow
def test_an_outside_package_plays_everywhere(tmp_path):
    (tmp_path / "outside_package.py").write_text(OUTSIDE.read_text(encoding="utf-8"), encoding="utf-8")
    assert sum(map(bool, OUTSIDE.read_text(encoding="utf-8").splitlines())) <= 62
    about = tmp_path / "outside-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[fewstep]\noutside = outside_package\n", encoding="utf-8")
    script = tmp_path / "play.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    result = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    told = json.loads(result.stdout.splitlines()[-1])
    assert all(told["lists"]) and all(told["cli"]), told
    assert told["sample"] < 1e-12 and told["driver"] > 0 and told["table"] == 4
    assert told["stored"].startswith("OutsideFlow(")
    assert told["scheduler"] == 5 and told["adjoint"] and told["guidance"]
    assert told["metric"] == "outside_extractor" and told["learn"] in ("outside_euler", "ddim")


def test_a_broken_plugin_is_a_warning(tmp_path):
    about = tmp_path / "broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[fewstep]\nbroken = no_such_module\n", encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-c", "from fewstep.samplers import GRIDS; print(len(GRIDS))"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert int(result.stdout) >= 14
    assert "the plugin broken = no_such_module could not be loaded" in result.stderr


# In this process, after the first look


@pytest.fixture
def halves():
    """A solver registered after everybody has looked: ddim in two halves of its weight of x0."""
    len(SOLVERS)

    @solver("halves", order=1, prediction="x0", reference="none", aliases=("Half And Half",))
    def family(path, *, share=0.5):
        rows = []
        for _, s, t in path.steps():
            q = t.sigma / s.sigma
            rows.append(Row(s, "x0", {"input": q, 0: t.alpha - s.alpha * q}))
        return Solution(rows, order=1)

    yield family
    SOLVERS.remove("halves")


def test_registered_after_the_first_look(halves):
    denoiser, x = Denoiser(lambda x, tau: 0.3 * x, VP, "sample"), torch.randn(3, 4, dtype=torch.float64)
    want = sample(denoiser, x, "ddim", 5)
    for way in ("halves", "half-and-half", halves, build("halves", VP, 5)):
        got = sample(denoiser, x, way, *([] if isinstance(way, fewstep.samplers.Tableau) else [5]))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-13)
    torch.testing.assert_close(
        adjoint.sample(denoiser, x.clone().requires_grad_(), "halves", 5).detach(), want, rtol=0, atol=1e-13
    )
    assert list(SOLVERS)[-1] == "halves" and resolve("Half And Half Karras") == ("halves", "karras")
    scheduler = fewstep.Scheduler.from_config({"beta_schedule": "linear"}, "halves", share=0.25)
    assert scheduler.config.solver == "halves" and scheduler.config.solver_options == {"share": 0.25}


def test_a_name_that_changes_its_meaning_is_not_remembered(halves):
    """Notebooks run a cell again: the second function counts, in what is cached by name too."""
    config = {"beta_schedule": "linear"}
    before = fewstep.Scheduler.from_config(config, "halves")
    before.set_timesteps(4)

    def family(path, *, share=0.5):
        return halves(path, share=share).__class__(halves(path, share=share).rows, order=7)

    family.__module__ = halves.__module__
    solver("halves", order=1, prediction="x0", reference="none")(family)
    after = fewstep.Scheduler.from_config(config, "halves")
    after.set_timesteps(4)
    assert before._table.tableau.order == 1 and after._table.tableau.order == 7


def test_removed_names_are_unknown_again():
    @grid("short_lived", "none")
    def rule(schedule, n, t_start, t_end):
        return np.linspace(t_start, t_end, n + 1)

    assert np.array_equal(build("ddim", VP, 4, "short_lived").times, build("ddim", VP, 4, "uniform").times)
    assert "short_lived" in GRIDS and list(GRIDS)[-1] == "short_lived"
    GRIDS.remove("short_lived")
    with pytest.raises(ValueError, match="unknown grid 'short_lived'"):
        build("ddim", VP, 4, "short_lived")
    with pytest.raises(ValueError, match="belongs to the library and stays"):
        GRIDS.remove("karras")


# What is refused, in one sentence with the remedy


def family(path, *, a=1):
    return Solution([], 1)


def rule(schedule, n, t_start, t_end):
    return np.linspace(t_start, t_end, n + 1)


REFUSED = {
    "a solver's name": (lambda: solver("ddim", order=1, prediction="x0", reference="")(family), "exists already"),
    "an alias": (
        lambda: solver("mine", order=1, prediction="x0", reference="", aliases=("DPM++ 2M",))(family),
        "'DPM\\+\\+ 2M' exists already, by .*: take another name",
    ),
    "a grid's name": (lambda: grid("karras", "")(rule), "grid 'karras' exists already"),
    "no word": (lambda: solver("my solver", order=1, prediction="x0", reference="")(family), "a word of letters"),
    "a class": (lambda: solver("mine", order=1, prediction="x0", reference="")(Node), "must be a function f\\(path"),
    "no path": (lambda: solver("mine", order=1, prediction="x0", reference="")(lambda: 0), "must take one path"),
    "loose options": (
        lambda: solver("mine", order=1, prediction="x0", reference="")(lambda path, a=1: 0),
        "options that are keyword-only with defaults",
    ),
    "no default": (
        lambda: driver("mine", order=1, prediction="x0", reference="")(lambda task, *, a: 0),
        "options that are keyword-only with defaults",
    ),
    "order": (
        lambda: solver("mine", order=1.5, prediction="x0", reference="")(family),
        "`order` must be a whole number",
    ),
    "prediction": (
        lambda: solver("mine", order=1, prediction="v", reference="")(family),
        "must be one of x0, eps, flow",
    ),
    "a fact": (
        lambda: solver("mine", order=1, prediction="x0", reference="", noisy=True)(family),
        "a solver has no 'noisy'; it has order",
    ),
    "a grid of two": (lambda: grid("mine", "")(lambda n, t: 0), "must take \\(schedule, n, t_start, t_end\\)"),
    "no schedule": (lambda: schedule_class(Node), "@schedule_class stands above"),
    "another entry": (
        lambda: GRIDS.add("mine", SOLVERS["ddim"], "me"),
        "'mine' is no grid but Entry; register one with",
    ),
    "no solution": (lambda: build(lambda path: [1], VP, 3), "returned list; expected a Solution"),
    "no solution by name": (
        lambda: sample(Denoiser(abs, VP), torch.ones(1, 2), lambda path: None, 3),
        "returned NoneType",
    ),
    "a grid's function": (
        lambda: build("ddim", VP, 3, grid=lambda n, t_start, t_end: np.linspace(1, 0, 4)),
        "must take \\(schedule, n, t_start, t_end\\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, message = REFUSED[case]
    names = set(SOLVERS), set(GRIDS), set(SCHEDULES)
    with pytest.raises(ValueError, match=message) as told:
        call()
    assert "\n" not in str(told.value)
    assert names == (set(SOLVERS), set(GRIDS), set(SCHEDULES)), "a refused entry was kept"


def test_an_entry_of_a_registry_of_one():
    words: Registry[str] = Registry("word", str)
    words.add("one", "1", "here", aliases=("The First",))
    words.add("one", "I", "here")
    assert (words["one"], words.find("the-first"), words.edition) == ("I", "I", 1)
    with pytest.raises(
        ValueError, match="word 'one' exists already, by here: take another name, or first take that one away"
    ):
        words.add("one", "2", "elsewhere")
    with pytest.raises(ValueError, match="unknown word 'oen'. Did you mean 'one'"):
        words.find("oen")
