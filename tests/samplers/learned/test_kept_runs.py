"""Reference runs on disk: only what is read, never more than the limit, the oldest go first."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch
from learned_problems import ring

from fewstep.samplers.learned.problem.kept_runs import made_room
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.problem.trajectory import Trajectory


def teacher(cache: object, **how: object) -> Teacher:
    return Teacher(Problem(ring(), shape=(2,), dtype="float64", batch_size=64), nfe=20, cache=cache, **how)


def test_only_the_end_of_seeds_whose_way_nobody_reads(tmp_path: Path) -> None:
    every, some = teacher(False), teacher(tmp_path, paths=range(16))
    whole, ends = some.problem.part(range(16)), some.problem.part(range(100, 116))
    some.prepare([whole, ends])
    sizes = sorted(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert len(sizes) == 2 and sizes[0] < sizes[1] / 5
    for part in (whole, ends):
        assert torch.equal(some.end(part), every.end(every.problem.part(part.seeds)))
    again = teacher(tmp_path, paths=range(16))
    calls = again.problem.model.nfe
    assert torch.equal(again.end(again.problem.part(range(100, 116))), some.end(ends))
    assert again.problem.model.nfe - calls <= 9  # of the network's own name, none of a run
    assert isinstance(some.path(ends), Trajectory)  # asked for all the same


def test_the_oldest_go_first_and_own_runs_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_CACHE_LIMIT", "1000")
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for age, path in enumerate(paths):
        path.write_bytes(bytes(300))
        os.utime(path, (1000 + age, 1000 + age))
    assert made_room(tmp_path, 100, set()) and all(path.exists() for path in paths)
    assert made_room(tmp_path, 200, {paths[0]})
    assert [path.exists() for path in paths] == [True, False, True]
    assert not made_room(tmp_path, 800, {paths[0]}) and paths[2].exists()


def test_runs_larger_than_the_limit_stay_in_memory_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_CACHE_LIMIT", "2kB")
    large = teacher(tmp_path)
    with pytest.warns(UserWarning, match="GiB that their cache may"):
        large.prepare([large.problem.part(range(32))])
    assert not list(tmp_path.glob("*.safetensors"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert large.end(large.problem.part(range(32))).shape == (32, 2)
    monkeypatch.setenv("FEWSTEP_CACHE_LIMIT", "much")
    with pytest.raises(ValueError, match=r"\$FEWSTEP_CACHE_LIMIT is a size"):
        made_room(tmp_path, 1, set())
