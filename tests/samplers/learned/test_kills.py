"""Learning that is killed at any moment, and run again, ends where learning that was left alone does; so do two at once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORK = """
import sys
import torch
from learned_problems import ring
from fewstep.samplers.learned import learn
torch.set_num_threads(1)
print("begun", flush=True)
made = learn(ring(), "dpmpp_2m", [3, 4], ["iia", "d_ode"], shape=(2,), dtype=torch.float64, progress=False, seeds=range(48),
             guard_seeds=range(1000, 1048), teacher={"nfe": 60}, cache=sys.argv[1], resume=sys.argv[2] or None)
made.save(sys.argv[3])
print(made.hash, flush=True)
"""
HELPERS = Path(__file__).parents[2] / "helpers"


def begun(cache: Path, resume: Path | str, out: Path) -> subprocess.Popen[str]:
    """The work in another process, whose imports are done."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(cache), str(resume), str(out)],
        env={**os.environ, "PYTHONPATH": str(HELPERS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n", process.communicate()[1]
    return process


def ended(process: subprocess.Popen[str]) -> str:
    """The hash of what it learned."""
    told, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return told.strip()


def killed_often(folder: Path, kills: int, resume: Path | str, seed: int) -> tuple[str, int]:
    """(hash, kills that found it at work) of work that is killed at random moments and begun again."""
    began = time.monotonic()
    expected = ended(begun(folder / "alone", "", folder / "alone.json"))
    whole, chance, hit = time.monotonic() - began, random.Random(seed), 0
    while hit < kills:
        process = begun(folder / "cache", resume, folder / "a.json")
        try:
            process.communicate(timeout=chance.uniform(0, whole))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            hit += 1
            continue
        for kept in (folder / "cache", folder / "stages"):  # it came to its end: from the beginning
            for file in sorted(kept.rglob("*"), reverse=True) if kept.exists() else []:
                file.rmdir() if file.is_dir() else file.unlink()
    assert ended(begun(folder / "cache", resume, folder / "a.json")) == expected
    return expected, hit


@pytest.mark.slow
@pytest.mark.parametrize("resume", [False, True], ids=["learn", "resume"])
def test_killed_at_any_moment(resume: bool, tmp_path: Path) -> None:
    _, kills = killed_often(tmp_path, 25, tmp_path / "stages" if resume else "", seed=int(resume))
    assert kills == 25
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "alone.json").read_bytes()


@pytest.mark.slow
def test_two_at_once_in_one_folder(tmp_path: Path) -> None:
    """Three times: one ends as if it were alone, the other is refused in words or comes after it, and nothing is spoilt."""
    expected = ended(begun(tmp_path / "alone", "", tmp_path / "alone.json"))
    for k in range(3):
        stages, cache = tmp_path / f"stages{k}", tmp_path / f"cache{k}"
        both = [begun(cache, stages, tmp_path / f"{k}{i}.json") for i in range(2)]
        done = [(*process.communicate(timeout=300), process.returncode) for process in both]
        assert any(code == 0 for *_, code in done)
        for told, error, code in done:
            if code == 0:
                assert told.strip() == expected
            else:
                assert "is in use by another run (process" in error, error
        assert ended(begun(cache, stages, tmp_path / f"{k}.json")) == expected
        assert not list(stages.rglob(".lock"))
