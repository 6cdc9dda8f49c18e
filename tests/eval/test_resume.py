"""A resume folder is one run's at a time, and whatever ends a run, the next one goes on to the value of a whole one."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imagesets import blobs
from PIL import Image
from places import ROOT
from tiny_features import EXTRACTOR

import fewstep
from fewstep.eval import Report, curve, evaluate, extractor, stats
from fewstep.eval.gaussian.statfile import load
from fewstep.eval.images import image_set
from fewstep.eval.passes import collect as collecting
from fewstep.eval.passes import shards
from fewstep.eval.passes.collect import collect
from fewstep.eval.passes.shards import Shard, Wanted
from fewstep.output.exclusive import exclusive

WANTED = Wanted({"main": 12}, {"main": 12}, 30)
N = 96


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "x.npz"
    np.savez(path, np.stack([blobs(N, 0)] * 3, -1))
    return path


def seen(images: Path, state: Path | None, **how: Any) -> Any:
    return collect(image_set(images), EXTRACTOR, rows=("main",), batch_size=8, kept=30, resume=state, **how)


def assert_whole(found: Any, images: Path) -> None:
    right = seen(images, None)
    assert found.n == right.n == N
    np.testing.assert_array_equal(found.rows["main"], right.rows["main"])
    np.testing.assert_allclose(found.statistics["main"].cov, right.statistics["main"].cov, rtol=0, atol=1e-14)
    assert np.array_equal(
        np.sort(found.statistics["main"].sketch.index), np.sort(right.statistics["main"].sketch.index)
    )


def key(images: Path, state: Path) -> Path:
    """The folder of an evaluation of all images in a resume folder."""
    return state / collecting._key(image_set(images), EXTRACTOR, WANTED, None)


def shard(images: Path, folder: Path, run: int, indices: Any) -> Shard:
    """What a run would have left that had looked at these images."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Shard(WANTED, folder / f"shard-{run:03d}-000.npz")
    numbers = np.array(indices)
    for part in np.array_split(numbers, -(-len(numbers) // 8)):
        x = EXTRACTOR(np_images(images, part), ["main"])
        made.add(part, x)
    made.save()
    return made


def np_images(images: Path, indices: np.ndarray) -> Any:
    source = image_set(images)
    return [source.image(int(i)) for i in indices]


def test_a_folder_in_use_is_refused(images: Path, tmp_path: Path) -> None:
    with (
        exclusive(key(images, tmp_path)),
        pytest.raises(ValueError, match=r"resume folder .* is in use by another run"),
    ):
        seen(images, tmp_path)
    assert_whole(seen(images, tmp_path), images)
    assert_whole(seen(images, tmp_path), images)
    assert not (key(images, tmp_path) / ".lock").exists()


def test_a_lock_that_a_dead_run_left_is_none(images: Path, tmp_path: Path) -> None:
    folder = key(images, tmp_path)
    folder.mkdir(parents=True)
    (folder / ".lock").write_text("process 1 on nowhere since long ago")
    assert_whole(seen(images, tmp_path), images)


def test_run_numbers_are_taken_once(tmp_path: Path) -> None:
    """Also where the run that took one never saved anything, or another takes it at the same moment."""
    assert [shards.next_run(tmp_path) for _ in range(3)] == [0, 1, 2]
    (tmp_path / "shard-007-000.npz").touch()
    assert shards.next_run(tmp_path) == 8
    (tmp_path / "run-other").touch()
    (tmp_path / "shard-x.npz").touch()
    assert shards.next_run(tmp_path) == 9 and shards.found(tmp_path) == [tmp_path / "shard-007-000.npz"]


@pytest.mark.parametrize("second", [range(32, 96), range(0, 64), range(0, 96), range(63, 64)])
def test_images_of_two_shards_count_once(images: Path, tmp_path: Path, second: range) -> None:
    """What two runs of an earlier release left that were started a state apart: 160 images of 96."""
    shard(images, key(images, tmp_path), 0, range(64))
    shard(images, key(images, tmp_path), 1, second)
    with pytest.warns(UserWarning, match="an earlier shard has too.*it is left out"):
        found = seen(images, tmp_path)
    assert_whole(found, images)


@pytest.mark.parametrize(("indices", "said"), [([0, 1, 1], "an image twice"), ([0, N], "that the set does not have"),
                                               ([-1, 3], "that the set does not have")])  # fmt: skip
def test_a_shard_of_images_that_cannot_be_is_refused(images: Path, tmp_path: Path, indices: Any, said: str) -> None:
    made = shard(images, key(images, tmp_path), 0, [4, 5, 6][: len(indices)])
    made.seen = [np.array(indices)]
    made.save()
    with pytest.raises(ValueError, match=f"shard-000-000.npz tells of .*{said[:8]}.*Remove it"):
        seen(images, tmp_path)


@pytest.mark.parametrize("what", ["rows", "cut", "gone", "order"])
def test_features_without_a_hash_must_be_those_of_their_moments(images: Path, tmp_path: Path, what: str) -> None:
    """Two runs of an earlier release that wrote one file in turn left such ones."""
    made = shard(images, key(images, tmp_path), 0, range(64))
    assert made.path is not None
    with np.load(made.path) as arrays:
        np.savez(made.path, **{name: arrays[name] for name in arrays if not name.startswith("sha256")})
    assert_whole(seen(images, tmp_path), images)
    (key(images, tmp_path) / "shard-001-000.npz").unlink()
    file = made.rows["main"].path
    data = np.fromfile(file, np.float32).reshape(64, 12)
    if what == "gone":
        file.unlink()
    else:
        changed = {"rows": data + 1e-3 * (np.arange(64) == 40)[:, None], "cut": data[:63], "order": data[::-1]}[what]
        changed.astype(np.float32).tofile(file)
    with pytest.raises(ValueError, match="shard-000-000.*Remove it"):
        seen(images, tmp_path)


def test_what_another_network_drew_is_not_taken(tmp_path: Path) -> None:
    pipe = fewstep.load_demo_pipeline()
    unet = pipe.unet
    forward, scale = unet.forward, 1.0
    unet.forward = lambda *args, **kwargs: _times(forward(*args, **kwargs), scale)
    how: dict[str, Any] = {
        "solver": "ddim",
        "nfe": 2,
        "number": 4,
        "classes": [0],
        "resume": tmp_path,
        "progress": False,
    }
    first = evaluate("mnist", pipe, ("fid",), **how)
    again = evaluate("mnist", pipe, ("fid",), **how)
    assert float(first["fid"]) == float(again["fid"])
    scale = 0.97
    with pytest.raises(ValueError, match="holds what another network drew.*Give another folder"):
        evaluate("mnist", pipe, ("fid",), **how)
    curves: dict[str, Any] = {"solvers": ("ddim",), "nfe": (2,), "metrics": ("rmse",), "number": 2, "pairs": 2}
    curves |= {"state": tmp_path / "curves", "classes": [0], "reference": {"solver": "ddim", "nfe": 4}}
    curve(pipe, **curves)
    curve(pipe, **curves)
    scale = 1.0
    with pytest.raises(ValueError, match="holds what another network drew"):
        curve(pipe, **curves)


def _times(out: Any, scale: float) -> Any:
    if isinstance(out, tuple):
        return (scale * out[0], *out[1:])
    out.sample = scale * out.sample
    return out


def test_removing_what_is_named_is_the_remedy(images: Path, tmp_path: Path) -> None:
    made = shard(images, key(images, tmp_path), 0, range(64))
    shard(images, key(images, tmp_path), 1, range(64, 80))
    assert made.path is not None
    made.path.write_bytes(made.path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="shard-000-000.npz cannot be read"):
        seen(images, tmp_path)
    made.path.unlink()
    made.rows["main"].path.unlink()
    assert_whole(seen(images, tmp_path), images)


# Runs that are killed. They are forked, so that a run is short; everything is written as often as it can be.

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that are forked")


def killed_after(seconds: float, work: Callable[[], Any]) -> bool:
    """Whether work in another process had to be killed."""
    child = multiprocessing.get_context("fork").Process(target=_quiet, args=(work,))
    child.start()
    child.join(seconds)
    alive = child.is_alive()
    if alive:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    else:
        assert child.exitcode == 0
    return alive


def _quiet(work: Callable[[], Any]) -> None:
    warnings.simplefilter("ignore")
    collecting.SAVE_EVERY = 0.0
    work()


def killed_often(work: Callable[[], Any], check: Callable[[], Any], times: int, anew: Callable[[], Any]) -> None:
    """Work is begun until it was killed so often, at any moment, and looked at each time; what has ended begins anew."""
    random, killed = np.random.default_rng(times), 0
    begun = time.monotonic()
    assert not killed_after(60, work)
    whole = time.monotonic() - begun
    anew()
    for _ in range(10 * times):
        if killed_after(float(random.uniform(0, whole)), work):
            killed += 1
            check()
        else:
            check()
            anew()
        if killed == times:
            break
    assert killed == times
    assert not killed_after(60, work)


@needs_fork
@pytest.mark.parametrize("times", [2, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_runs_of_eval_go_on_to_the_same_value(images: Path, tmp_path: Path, times: int) -> None:
    how: dict[str, Any] = {"metrics": ("fid", "kid_full"), "extractor": extractor("digits"), "progress": False}
    np.savez(tmp_path / "real.npz", np.stack([blobs(60, 1)] * 3, -1))
    real, state, out = str(tmp_path / "real.npz"), tmp_path / "state", tmp_path / "r.json"
    right = [result.value for result in evaluate(real, str(images), **how).values()]

    def work() -> None:
        found = evaluate(real, str(images), **how, batch_size=4, resume=str(state))
        assert [result.value for result in found.values()] == pytest.approx(right, rel=1e-5)
        found.to_json(out)

    def check() -> None:
        if out.exists():
            assert [result.value for result in Report.from_json(out).values()] == pytest.approx(right, rel=1e-5)

    killed_often(work, check, times, lambda: shutil.rmtree(state))


@needs_fork
@pytest.mark.parametrize("times", [2, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_runs_of_stats_leave_a_whole_file_or_none(images: Path, tmp_path: Path, times: int) -> None:
    out, network = tmp_path / "s.npz", extractor("digits")

    def check() -> None:
        if out.exists():
            assert load(out).n == N

    def work() -> None:
        stats(str(images), out, extractor=network, rows=True, progress=False, batch_size=4)

    killed_often(work, check, times, out.unlink)
    assert load(out).n == N


@needs_fork
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("times", [2, pytest.param(15, marks=pytest.mark.slow)])
def test_killed_passes_go_on(images: Path, tmp_path: Path, times: int, workers: int) -> None:
    """With processes that decode, too: those that outlive their parent for a moment hold no lock."""
    folder = tmp_path / "images"
    folder.mkdir()
    for k, x in enumerate(blobs(N, 0)):
        Image.fromarray(x).save(folder / f"{k:03d}.png")

    def work() -> None:
        found = seen(folder, tmp_path / "state", workers=workers)
        assert found.n == N

    killed_often(work, lambda: None, times, lambda: shutil.rmtree(tmp_path / "state"))
    assert_whole(seen(folder, tmp_path / "state"), images)


# Two runs at once


def command(*arguments: str) -> subprocess.Popen[str]:
    told = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "fewstep", *arguments, "--device", "cpu"]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=told)


def values(output: str) -> list[str]:
    """The values of a table that was printed."""
    return re.findall(r"^((?:FD|KID)\S*) .*?fp32 +(\S+)", output, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("apart", [0.0, 0.7, 2.0])
def test_two_runs_on_one_folder_never_give_another_value(images: Path, tmp_path: Path, apart: float) -> None:
    """One does the work; the other is refused, or comes when that is done; a third finds the folder sound."""
    np.savez(tmp_path / "real.npz", np.stack([blobs(1500, 1)] * 3, -1))
    np.savez(tmp_path / "drawn.npz", np.stack([blobs(1500, 2)] * 3, -1))
    line = ["eval", str(tmp_path / "real.npz"), str(tmp_path / "drawn.npz"), "--metrics", "fid,kid_full", "--extractor",
            "digits", "--batch-size", "16", "--resume"]  # fmt: skip
    state, alone = str(tmp_path / "state"), command(*line, str(tmp_path / "alone"))
    right = values(alone.communicate()[0])
    assert len(right) == 2
    first = command(*line, state)
    time.sleep(apart)
    second = command(*line, state)
    for run in (first, second):
        output, error = run.communicate()
        assert run.returncode in (0, 2) and "Traceback" not in error
        assert values(output) == right if run.returncode == 0 else "is in use by another run" in error
    assert 0 in (first.returncode, second.returncode)
    third = command(*line, state)
    assert values(third.communicate()[0]) == right and third.returncode == 0
