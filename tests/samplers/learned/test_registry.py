"""Learners from outside: registered at any time, learned with like the library's own; wrong ones are told in a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from learned_problems import ring
from pipelines import PIPELINES

import fewstep.registry
from fewstep import samplers
from fewstep.cli import main
from fewstep.samplers import Tableau, learned
from fewstep.samplers.learned.learning import learn
from fewstep.samplers.learned.playing.arithmetic import corrected
from fewstep.samplers.learned.tasks.learner_entry import KINDS, METHODS, learner
from fewstep.samplers.learned.tasks.learner_task import Task

SMALL: dict[str, Any] = {
    "rivals": False, "shape": (2,), "dtype": torch.float64, "cache": False, "progress": False, "batch_size": 128,
    "seeds": range(32), "guard_seeds": range(1000, 1064), "teacher": {"nfe": 120},
}  # fmt: skip
OWN = 24


def run(method: Any, **how: Any) -> Any:
    return learn(ring(), "dpmpp_2m", 4, method, **{**SMALL, **how})


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args], prog_name="fewstep")


@pytest.fixture
def outside() -> Iterator[None]:
    """What a test registers is gone afterwards."""
    before = set(METHODS)
    yield
    for name in set(METHODS) - before:
        METHODS.remove(name)


pytestmark = pytest.mark.usefixtures("outside")


def nudge(size: float) -> Any:
    """A method that offers the table with consistent corrections of that size."""

    def moved(task: Task, start: Tableau, *, share: float = 1.0) -> Tableau:
        delta = np.zeros((start.nfe, 2))
        delta[1:] = share * size, -share * size
        table = corrected(start, delta)
        task.offer(table)
        return min((start, table), key=task.judge)

    return moved


def test_the_library_has_its_own() -> None:
    assert len(METHODS) == OWN and METHODS is learned.METHODS and samplers.learner is learned.learner is learner
    for name, entry in METHODS.items():
        assert entry.name == name and set(entry.learns) <= set(KINDS) and entry.reference and not entry.version
        assert METHODS.find(name.upper()) is entry


def test_one_from_outside_is_learned_with() -> None:
    assert len(METHODS) == OWN  # the first look is behind us
    learner("mine", learns=("coef",), reference="me")(nudge(0.02))
    (table,) = run("mine", share=0.5).tables
    assert table.stages[0]["method"] == "mine" and table.stages[0]["options"] == {"share": 0.5}
    found = run(["dmn", ("mine", {"share": 0.1}), "iia"])
    assert [stage["method"] for stage in found.tables[0].stages] == ["dmn", "mine", "iia"]
    assert found.provenance["method"][1] == ["mine", {"share": 0.1}]


@pytest.mark.slow
def test_one_from_outside_is_known_on_the_command_line(tmp_path: Path) -> None:
    learner("mine", learns=("coef",), reference="me")(nudge(0.02))
    model, out = tmp_path / "model", tmp_path / "a.json"
    PIPELINES["ddpm"].make()[0].save_pretrained(model)
    small = ("-n", 16, "--guard", 16, "--teacher-nfe", 160, "--no-cache", "--no-rivals")
    told = call("learn", model, "--nfe", 3, "--method", "mine+iia", "--set", "mine.share=0.5", *small, "--out", out)
    assert told.exit_code == 0, told.output
    stages = samplers.Artefact.load(out).tables[0].stages
    assert [stage["options"] for stage in stages] == [{"share": 0.5}, {}]
    listed = call("learn", "--methods")
    assert any(line.split()[:2] == ["mine", "coef"] for line in listed.output.splitlines())
    known = {one["name"]: one for one in json.loads(call("learn", "--methods", "--json").output)}
    assert len(known) == OWN + 1 and known["mine"]["options"] == {"share": "1.0"}
    assert call("learn", model, "--method", "mine", "--set", "shrae=1", "--estimate").exit_code == 2


def test_a_plugin_is_met_at_the_first_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugged_learner.py").write_text(
        "from fewstep.samplers import learner\n\n\n"
        "@learner('plugged', learns=('grid',), reference='')\n"
        "def plugged(task, start):\n    return start\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint("mine", "plugged_learner", fewstep.registry.GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point])
    monkeypatch.setattr(fewstep.registry, "_loaded", False)
    assert "plugged" in METHODS and METHODS.find("plugged").options == {}


def test_a_changed_method_is_not_taken_for_what_it_was(tmp_path: Path) -> None:
    """As in a notebook: the same cell, changed, and run again with the same folder of finished stages."""
    calls = []

    def first(task: Task, start: Tableau) -> Tableau:
        calls.append("first")
        return start

    def second(task: Task, start: Tableau) -> Tableau:
        calls.append("second")
        return start

    edition = METHODS.edition
    for fn in (first, first, second):
        learner("mine", learns=("grid",), reference="")(fn)
        run("mine", resume=tmp_path)
    assert calls == ["first", "second"] and METHODS.edition == edition + 2


def no_options(task: Task, start: Tableau, samples: int = 3) -> Tableau:
    return start


def no_default(task: Task, start: Tableau, *, samples: int) -> Tableau:
    return start


def no_table(task: Task) -> None: ...


class Kind:
    """No function."""


WRONG: dict[str, tuple[dict[str, Any], Any, str]] = {
    "name": ({"name": "oss"}, nudge(0.1), "'oss' exists already, by .*oss: take another name"),
    "spelling": ({"name": "O_S_S"}, nudge(0.1), "'O_S_S' exists already"),
    "no word": ({"name": "my own"}, nudge(0.1), "a word of letters, digits and _; got 'my own'"),
    "not callable": ({}, 3, "must be a function f.task, start.*; got 3"),
    "class": ({}, Kind, "must be a function"),
    "positional options": (
        {},
        no_options,
        r"keyword-only with defaults: f\(task, start, \*, samples=64\); got no_options",
    ),
    "no default": ({}, no_default, "keyword-only with defaults"),
    "no table": ({}, no_table, "must take a task and a table"),
    "learns": (
        {"learns": ("grid", "weights")},
        nudge(0.1),
        r"`learns` .* of grid, coef, tau, filter, cache; got \('grid', 'weights'\)",
    ),
    "learns a word": ({"learns": "grid"}, nudge(0.1), "`learns` .* lists"),
    "learns nothing": ({"learns": ()}, nudge(0.1), "`learns` .* lists"),
    "facts": ({"gradient": True}, nudge(0.1), "has no 'gradient'; it has gradients, calls, paths, check"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_learner_is_told(case: str) -> None:
    changed, fn, told = WRONG[case]
    how = {"name": "mine", "learns": ("grid",), "reference": "", **changed}
    with pytest.raises(ValueError, match=told):
        learner(how.pop("name"), **how)(fn)
    assert len(METHODS) == OWN


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda task, start: None, "got NoneType"),
        (lambda task, start: samplers.build("ddim", start.schedule, 6), "one of 6"),
    ],
)
def test_what_returns_no_table_is_told(given: Any, told: str) -> None:
    learner("mine", learns=("grid",), reference="")(given)
    with pytest.raises(ValueError, match=f"'mine' must return a Tableau of 4 evaluations, `start` where .*{told}"):
        run("mine")


def test_unknown_names_and_options_are_told() -> None:
    with pytest.raises(ValueError, match="unknown method 'iai'.*'iia'"):
        run("iai")
    with pytest.raises(ValueError, match="'oss' has no option 'nods'; its options: nodes"):
        run("oss", nods=3)
    with pytest.raises(ValueError, match="unknown method"):
        METHODS.find(3)
    with pytest.raises(ValueError, match="belongs to the library"):
        METHODS.remove("oss")
