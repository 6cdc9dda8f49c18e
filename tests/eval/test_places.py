"""Where the commands of evaluation write is proved before they work, and what cannot be written at the end is not lost."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from imagesets import blobs

from fewstep.eval import Curves, Report, stats
from fewstep.eval.extractors.digits import Digits
from fewstep.eval.gaussian.statfile import load
from fewstep.eval.images.generated import Generated
from fewstep.eval.shared_noise.trials import Trials
from fewstep.output import files


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", np.stack([blobs(20, 0)] * 3, -1))
    np.savez("y.npz", np.stack([blobs(20, 1)] * 3, -1))
    Path("file").write_text("a file")
    Path("folder.json").mkdir()
    return tmp_path


SETS = ("x.npz", "y.npz", "--extractor", "digits")
DEMO = ("--nfe", "4", "-n", "2", "--classes", "0")
REFUSED: dict[str, tuple[str, ...]] = {
    "stats --out": ("stats", "x.npz", "--extractor", "digits", "--out", "file/s.npz"),
    "stats --resume": ("stats", "x.npz", "--extractor", "digits", "--out", "s.npz", "--resume", "file/state"),
    "fid --json": ("fid", *SETS, "--json", "file/r.json"),
    "fid --json, a folder": ("fid", *SETS, "--json", "folder.json"),
    "fid --html": ("fid", *SETS, "--html", "file/r.html"),
    "fid --resume": ("fid", *SETS, "--resume", "file"),
    "eval --json": ("eval", *SETS, "--json", "file/r.json"),
    "eval --html": ("eval", *SETS, "--html", "file/r.html"),
    "eval --resume": ("eval", *SETS, "--resume", "file/x/y"),
    "eval --model --out": ("eval", "--model", "demo", *DEMO, "--out", "file/out"),
    "eval --model --out page": ("eval", "--model", "demo", *DEMO, "--out", "file/out.html"),
    "eval --model --resume": ("eval", "--model", "demo", *DEMO, "--resume", "file/state"),
    "eval LEARNED --json": ("eval", "demo", "--json", "file/r.json"),
    "compare --out": ("compare", "--solvers", "ddim", *DEMO, "--out", "file/out"),
    "compare --out page": ("compare", "--solvers", "ddim", *DEMO, "--out", "file/out.html"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for kind, method in ((Digits, "__init__"), (Generated, "__init__"), (Trials, "__init__")):
        monkeypatch.setattr(kind, method, lambda *_, **__: pytest.fail("it was begun"))
    before = sorted(place.rglob("*"))
    error = run(*REFUSED[name], code=2).stderr
    assert name.replace(",", "").split("--")[-1].split()[0] in error and ("file" in error or "folder.json" in error)
    assert sorted(place.rglob("*")) == before


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step of writing a file fails where it was meant to be, and nowhere else."""
    replace = os.replace

    def fails(source: Any, target: Any) -> None:
        if "kept" not in str(target) and Path(target).suffix != ".png":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", fails)


def kept(error: str) -> Path:
    found = re.search(r"(\S+) could not be written: No space left on device.*The result is kept: (\S+)", error)
    assert found, error
    return Path(found[2])


@pytest.mark.usefixtures("full")
def test_what_cannot_be_written_at_the_end_is_kept_and_said(place: Path) -> None:
    error = run("stats", "x.npz", "--extractor", "digits", "--out", "s.npz", code=1).stderr
    assert load(kept(error)).n == 20 and kept(error).name == "s.npz"
    result = run("fid", *SETS, "--json", "r.json", code=1)
    assert "FD-digits" in result.stdout and Report.from_json(kept(result.stderr))["fid"].n == 20
    assert "<table>" in kept(run("fid", *SETS, "--html", "r.html", code=1).stderr).read_text(encoding="utf-8")
    assert not Path("s.npz").exists() and not Path("r.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("full")
def test_curves_are_kept_too(place: Path) -> None:
    command = ("eval", "--model", "demo", *DEMO, "--solver", "ddim", "--metrics", "rmse", "--pairs", "2")
    found = kept(run(*command, "--out", "out", code=1).stderr)
    assert Curves.from_json(found).metrics == ["rmse"] and found.name == "results.json"
    result = run("compare", "--solvers", "ddim", *DEMO, "--out", "compared", code=1)
    assert "ddim" in result.stdout and kept(result.stderr).name == "results.json"


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes")
def test_a_limit_of_file_sizes_ends_in_a_sentence_and_the_run_goes_on(place: Path) -> None:
    """With a state folder: what was saved before the limit is whole."""

    def limited(size: int) -> None:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            stats("x.npz", "s.npz", extractor="digits", rows=True, progress=False, resume="state", batch_size=4)
        except OSError as error:
            os._exit(3 if "could not be written" in str(error) and str(error).count("\n") == 0 else 4)
        os._exit(5)

    for size in (200, 2000, 6000):
        child = multiprocessing.get_context("fork").Process(target=limited, args=(size,))
        child.start()
        child.join()
        assert child.exitcode == 3 and not Path("s.npz").exists()
    stats("x.npz", "s.npz", extractor="digits", rows=True, progress=False, resume="state")
    right = stats("x.npz", extractor="digits", rows=True, progress=False)
    np.testing.assert_allclose(load("s.npz").rows["main"], right.rows["main"], rtol=1e-5)
