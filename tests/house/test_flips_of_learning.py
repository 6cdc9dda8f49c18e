"""No file that learning or a resume folder keeps is read as something else once it was changed; none ends in a traceback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flips import hold
from learned_problems import ring
from learnt import DISCRETE, learned_table

import fewstep
from fewstep.eval.passes.answers import check_answers
from fewstep.samplers import Artefact, Learned, Tableau, build
from fewstep.samplers.learned.learning_run import keep_answers, stage_folder
from fewstep.samplers.learned.planning import planned
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.table.stored import to_dict

Read = Callable[[], Any]


def problem() -> Problem:
    return Problem(ring(), shape=(2,), dtype="float64")


def _teacher(folder: Path, **how: Any) -> tuple[Path, Read]:
    def fresh() -> Teacher:
        return Teacher(problem(), nfe=12, cache=folder / "cache", **how)

    found = fresh()
    found.end(found.problem.part(range(6)))
    (file,) = (folder / "cache").iterdir()

    def read() -> Any:
        again = fresh()
        x0 = again.end(again.problem.part(range(6))).tolist()
        assert list((folder / "cache").iterdir()) == [file], (
            "a damaged run is told of, and no other is made in its place"
        )
        return x0

    return file, read


def found_run(folder: Path) -> tuple[Path, Read]:
    return _teacher(folder)


def found_end(folder: Path) -> tuple[Path, Read]:
    return _teacher(folder, paths=())


def answers_of_stages(folder: Path) -> tuple[Path, Read]:
    """What the network of a resume folder answers."""
    work = planned(ring(), solver="dpmpp_2m", nfe=3, method="iia", seeds=range(48), guard_seeds=range(1000, 1048))
    own = stage_folder(folder / "stages", work, problem())
    assert own is not None
    own.mkdir(parents=True)
    keep_answers(own, problem())
    other = Problem(fewstep.Denoiser(lambda x, tau: 1.5 * ring().call(x, tau), ring().schedule, "sample"),
                    shape=(2,), dtype="float64")  # fmt: skip
    assert stage_folder(folder / "stages", work, other) != own
    return own / "answers.json", lambda: stage_folder(folder / "stages", work, other)


def answers_of_images(folder: Path) -> tuple[Path, Read]:
    """What the network of an evaluation's resume folder answers."""
    drawn = np.random.default_rng(0).standard_normal((1, 4, 4))
    check_answers(folder / "answers.npz", drawn)
    return folder / "answers.npz", lambda: check_answers(folder / "answers.npz", drawn)


def _saved(folder: Path, *made: Learned) -> tuple[Path, Read]:
    """Learned tables in a file, or the file beside it where they are large."""
    Artefact(made, {"prediction": "epsilon"}).save(folder / "learned.json")
    (file,) = [*folder.glob("learned-*.safetensors")] or [folder / "learned.json"]
    return file, lambda: fewstep.load(folder / "learned.json").to_dict()


def _filtered(channels: int) -> Tableau:
    start = build("dpmpp_2m", DISCRETE, 3)
    F = 0.01 * np.random.default_rng(0).standard_normal((3, 3, channels, 5, 5))
    return replace(start, filters=F, conserves="")


def filters(folder: Path) -> tuple[Path, Read]:
    return _saved(folder, Learned(_filtered(1)))


def filters_beside(folder: Path) -> tuple[Path, Read]:
    return _saved(folder, Learned(_filtered(16)))


def refused(folder: Path) -> tuple[Path, Read]:
    """What was learned and not certainly better goes along."""
    return _saved(folder, Learned(build("dpmpp_2m", DISCRETE, 3), status="no-gain", refused=_filtered(1)))


def surface(folder: Path) -> tuple[Path, Read]:
    """Tables of two guidances, between which others are played."""
    file, _ = _saved(folder, *(Learned(learned_table(DISCRETE, 4, seed), float(seed)) for seed in (1, 3)))
    return file, lambda: to_dict(fewstep.load(file).table(4, guidance=2.0))


KINDS = (found_run, found_end, answers_of_stages, answers_of_images, filters, filters_beside, refused, surface)
MANY = 120


@pytest.mark.parametrize("number", [14, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_changed_is_refused_or_the_same(
    kind: Callable[[Path], tuple[Path, Read]], number: int, tmp_path: Path
) -> None:
    hold(kind, number, tmp_path)
