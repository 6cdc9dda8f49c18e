"""How commands end that cannot end well: a closed or full stream, Ctrl-C, a place that cannot be written, a full disk."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import call
from learnt import VP, artefact, statistics

import fewstep
from fewstep.samplers import Artefact, build
from fewstep.samplers.learned.problem import kept_runs

FEWSTEP = f"{sys.executable} -m fewstep"


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("streams", ["<&- >&-", pytest.param(">&- 2>&-", marks=SLOW), pytest.param(">&-", marks=SLOW)])
def test_closed_streams_lead_nowhere(streams: str, tmp_path: Path) -> None:
    done = shell(f"{FEWSTEP} solvers {streams}", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.slow
def test_a_full_output_is_told(tmp_path: Path) -> None:
    done = shell(f"{FEWSTEP} solvers > /dev/full", tmp_path)
    assert done.returncode == 1 and done.stderr == "Error: an output: No space left on device\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sample", "--nfe", "400", "-n", "640", "--out", "s.png"], "begins again: fewstep sample --nfe 400 -n 640"),
        pytest.param(
            ["learn", "--out", "a.json", "--cache", "c"], "with --resume DIR it can be ended and goes on", marks=SLOW
        ),
        pytest.param(
            ["learn", "--out", "a.json", "--cache", "c", "--resume", "r"], "the same command goes on", marks=SLOW
        ),
    ],
    ids=["sample", "learn", "resume"],
)
@pytest.mark.slow
def test_ctrl_c_says_which_command_goes_on(arguments: list[str], said: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fewstep", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests run in the background hear no Ctrl-C
    )
    try:
        process.communicate(timeout=15)  # into the work, past the imports
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        _, told = process.communicate(timeout=120)
    finally:
        process.kill()  # where it has not ended
    last = told.strip().splitlines()[-1]
    assert process.returncode == 130 and last.startswith("interrupted") and said in last and "Traceback" not in told
    assert not list(tmp_path.glob("*.json")) and not list(tmp_path.glob("*.png"))


def test_places_are_proved_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr("fewstep.samplers.pipeline.source.load_pipeline", never)
    (tmp_path / "afile").write_text("", encoding="utf-8")
    (tmp_path / "folder.json").mkdir()
    inside = tmp_path / "afile" / "x"
    for arguments in (
        ["learn", "--out", f"{inside}.json"],
        ["learn", "--out", tmp_path / "folder.json"],
        ["learn", "--out", tmp_path / "a.json", "--cache", inside],
        ["learn", "--out", tmp_path / "a.json", "--no-cache", "--resume", inside],
        ["sample", "--out", f"{inside}.png"],
        ["sample", "--out", f"{inside}/"],
        ["show", "demo", "--out", f"{inside}.png"],
    ):
        result = call(*arguments)
        assert result.exit_code == 2, (arguments, result.output)
        (sentence,) = result.stderr.strip().splitlines()
        assert str(tmp_path) in sentence and "give" in sentence, sentence
    assert sorted(p.name for p in tmp_path.iterdir()) == ["afile", "folder.json"]


def test_solver_beside_learned_is_refused() -> None:
    result = call("sample", "--learned", "demo", "--solver", "ddim")
    assert result.exit_code == 2 and "leave --solver ddim away" in result.stderr


def test_what_was_learned_is_kept_where_the_last_write_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder becomes a file while the work is done."""
    place, system = tmp_path / "out", tmp_path / "system"
    place.mkdir()
    system.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(system))

    def learning(**_: Any) -> Artefact:
        place.rmdir()
        place.write_text("", encoding="utf-8")
        return artefact(VP, 4)

    monkeypatch.setattr("fewstep.samplers.learned.terminal.learn", learning)
    result = call("learn", "--out", place / "a.json", "--no-cache")
    assert result.exit_code == 1 and f"{place / 'a.json'} could not be written" in result.stderr, result.output
    assert Artefact.load(result.stderr.strip().rpartition("kept: ")[2]) == artefact(VP, 4)


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Files of at most so many bytes, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _run(path: Path) -> None:
    kept_runs.write(path, "key", (1,), ((1.0,),), torch.zeros(50, 10, 10), torch.zeros(50, 10, 10))


def _config(path: Path) -> None:
    config = {"_class_name": "DDIMScheduler"}
    made = artefact(fewstep.Scheduler.from_config(config)._model.schedule, 4)
    fewstep.Scheduler.from_config(config, learned=made).save_pretrained(path.parent)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "table.json": lambda path: build("dpmpp_2m", VP, 12).save(path),
    "artefact.json": lambda path: artefact(VP, 4).save(path),
    "statistics.safetensors": lambda path: statistics((32, 32)).save(path),
    "run.safetensors": _run,
    "scheduler_config.json": _config,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_what_was_there(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text("old", encoding="utf-8")
    with pytest.raises(OSError, match=rf"^{file} could not be written: .*[Ff]ile too large"), limited(2000):
        WRITERS[name](file)
    assert file.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [file]
    WRITERS[name](file)
    assert file.stat().st_size > 2000 and np.all([p == file for p in tmp_path.iterdir()])
