"""Learning that is killed at any moment, and run again, ends where learning that was left alone does; so do two at once."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest
from killed_work import begun
from places import TESTS


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of the processes imports what they need from there."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS / "helpers"))


def ended(cache: Path, resume: Path | None, out: Path) -> bytes:
    """The file of work that was left alone."""
    process = begun(cache, resume, out)
    process.join(300)
    error = Path(f"{out}.error")
    assert process.exitcode == 0, error.read_text(encoding="utf-8") if error.exists() else process.exitcode
    return out.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("resume", [False, True], ids=["learn", "resume"])
def test_killed_at_any_moment(resume: bool, tmp_path: Path) -> None:
    """25 kills each, at moments that are drawn; each run goes on from what the one before left, until one ends."""
    ended(tmp_path / "warm", None, tmp_path / "warm.json")
    began = time.monotonic()
    expected = ended(tmp_path / "alone", None, tmp_path / "alone.json")
    lasts, chance, kills, ends = time.monotonic() - began, random.Random(int(resume)), 0, 0
    cache, out, stages = tmp_path / "cache", tmp_path / "a.json", tmp_path / "stages" if resume else None
    while kills < 25:
        process = begun(cache, stages, out)
        process.join(chance.uniform(0.02, lasts))
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
            if out.exists():
                assert out.read_bytes() == expected, "a file is there whole or not at all"
            continue
        assert process.exitcode == 0 and out.read_bytes() == expected
        ends += 1
        out.unlink()
        for folder in (cache, stages):
            if folder is not None and chance.random() < 0.7:  # from the beginning, mostly
                shutil.rmtree(folder, ignore_errors=True)
    assert ended(cache, stages, out) == expected, f"after {kills} kills and {ends} ends"


@pytest.mark.slow
def test_two_at_once_in_one_folder(tmp_path: Path) -> None:
    """Three times: one ends as if it were alone, the other is refused in words or comes after it, and nothing is spoilt."""
    expected = ended(tmp_path / "alone", None, tmp_path / "alone.json")
    for k in range(3):
        stages, cache, outs = (
            tmp_path / f"stages{k}",
            tmp_path / f"cache{k}",
            [tmp_path / f"{k}{i}.json" for i in range(2)],
        )
        both = [begun(cache, stages, out) for out in outs]
        for process, out in zip(both, outs, strict=True):
            process.join(300)
            error = Path(f"{out}.error")
            assert (
                out.read_bytes() == expected
                if process.exitcode == 0
                else ("is in use by another run (process" in error.read_text(encoding="utf-8"))
            )
        assert any(process.exitcode == 0 for process in both)
        assert ended(cache, stages, tmp_path / f"{k}.json") == expected
        assert not list(stages.rglob(".lock"))
