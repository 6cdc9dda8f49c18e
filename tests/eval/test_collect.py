"""One pass gives the same features whatever the batches, workers and processes, and goes on where it was interrupted."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from places import HELPERS
from tiny_features import EXTRACTOR, D, bars, tiny

from fewstep.eval.extractors import Function
from fewstep.eval.images import image_set
from fewstep.eval.passes import collect as collecting
from fewstep.eval.passes.collect import blocks_of, collect, undone


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for k in range(61):
        size = (9 + k % 3, 8, 3)
        Image.fromarray(random.integers(0, 255, size, np.uint8)).save(made / f"{k:03d}.png")
    return made


def features_of(folder, **how):
    how = {"batch_size": 8, "kept": 25, "statistics": ("main",), "rows": ("main",), **how}
    return collect(image_set(folder), EXTRACTOR, **how)


def assert_same(a, b, rtol=1e-12):
    assert a.n == b.n
    np.testing.assert_allclose(a.rows["main"], b.rows["main"], rtol=1e-6)
    one, other = a.statistics["main"], b.statistics["main"]
    torch.testing.assert_close(one.mean, other.mean, rtol=rtol, atol=0)
    torch.testing.assert_close(one.cov, other.cov, rtol=0, atol=rtol * float(other.cov.abs().max()))
    assert_same_bars(bars(a), bars(b), 1e-6)  # float32 features differ by the batches of the extractor
    assert len(bars(a)[0]) == 25


def assert_same_bars(found, expected, rtol):
    assert np.array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
    for numbers, others in zip(found[2:], expected[2:], strict=True):
        assert numbers == (others if others is None else pytest.approx(others, rel=rtol))


def test_rows_are_those_of_each_image_in_order(folder):
    found = features_of(folder)
    alone = [EXTRACTOR(image_set(folder).image(i)[None])[0].numpy() for i in range(61)]
    np.testing.assert_allclose(found.rows["main"], np.stack(alone), rtol=1e-6)
    np.testing.assert_allclose(found.statistics["main"].mean, np.mean(alone, 0), rtol=1e-6)
    assert found.n == 61 and found.meta.extractor == "tiny" and found.layers == {"main": "main"}


@pytest.mark.parametrize("how", [{"batch_size": 61}, {"batch_size": 7}, {"batch_size": 1}, {"workers": 2}])
def test_batches_and_workers_change_nothing(folder, how):
    assert_same(features_of(folder, **how), features_of(folder))


def test_only_the_first_images(folder):
    np.testing.assert_array_equal(features_of(folder, number=20).rows["main"], features_of(folder).rows["main"][:20])
    stream = (torch.full((4, 3, 8, 8), k, dtype=torch.uint8) for k in range(1, 9))
    found = collect(image_set(stream), EXTRACTOR, rows=("main",), batch_size=4, number=10)
    assert found.n == 10 and found.rows["main"].shape == (10, D)


def test_a_stream_of_unknown_length(folder):
    images = [image_set(folder).image(i)[None] for i in range(61)]
    found = collect(image_set(iter(images)), EXTRACTOR, rows=("main",), batch_size=8, kept=25)
    assert_same(found, features_of(folder))


class Killed(Exception):
    pass


@pytest.mark.parametrize("again", [8, 5])
def test_an_interrupted_run_goes_on_and_equals_a_whole_one(folder, tmp_path, monkeypatch, again):
    monkeypatch.setattr(collecting, "SAVE_EVERY", 0.0)
    seen = []

    def dies(images):
        seen.append(len(images))
        if sum(seen) > 0.4 * 61:
            raise Killed
        return tiny(images)

    mortal = Function(dies, D, "tiny", size=8)
    how = {"kept": 25, "rows": ("main",), "resume": tmp_path}
    with pytest.raises(Killed):
        collect(image_set(folder), mortal, batch_size=8, **how)
    done = sum(seen) - seen[-1]
    assert 16 <= done <= 24
    seen.clear()
    alive = Function(lambda images: (seen.append(len(images)), tiny(images))[1], D, "tiny", size=8)
    found = collect(image_set(folder), alive, batch_size=again, **how)
    assert sum(seen) == 61 - done
    assert_same(found, features_of(folder))
    seen.clear()
    assert_same(collect(image_set(folder), alive, batch_size=8, **how), found)
    assert not seen  # all of it was there


def test_states_of_other_images_and_other_wishes_are_not_taken(folder, tmp_path):
    features_of(folder, resume=tmp_path)
    features_of(folder, resume=tmp_path, rows=())
    features_of(folder, resume=tmp_path, number=30)
    assert len(list(tmp_path.iterdir())) == 3
    assert features_of(folder, resume=tmp_path, number=30).n == 30


def test_bad_images_are_counted_once_even_after_a_resume(folder, tmp_path):
    broken = tmp_path / "images"
    broken.mkdir()
    for path in sorted(folder.iterdir())[:10]:
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "003.png").write_bytes(b"no picture")
    for _ in range(2):
        images = image_set(broken, skip_bad=True)
        found = collect(images, EXTRACTOR, rows=("main",), batch_size=4, resume=tmp_path / "state")
        assert found.n == 9 and found.meta.skipped == 1 and len(found.rows["main"]) == 9


@pytest.mark.parametrize(
    ("images", "how", "said"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), {}, "at least 2 images"),
        (torch.zeros(5, 3, 8, 8, dtype=torch.uint8), {"number": 1}, "at least 2 images"),
        (torch.zeros(5, 3, 8, 8, dtype=torch.uint8), {"statistics": ("spatial",)}, "no 'spatial' layer"),
        (iter([torch.zeros(5, 3, 8, 8, dtype=torch.uint8)]), {"resume": "state"}, "can be read once"),
        (iter([torch.zeros(1, 3, 8, 8, dtype=torch.uint8)]), {}, "at least 2 images"),
    ],
)
def test_bad_input(images, how, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said), np.errstate(all="ignore"):
        collect(image_set(images), EXTRACTOR, **how)


def test_features_that_are_not_finite_are_refused():
    broken = Function(lambda x: torch.full((len(x), 2), float("nan")), 2, "nan")
    images = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    for how in ({"statistics": ("main",)}, {"statistics": (), "rows": ("main",)}):
        with pytest.raises(ValueError, match="NaN"):
            collect(image_set(images), broken, **how)


def test_blocks_cover_what_is_left():
    left = undone(20, [np.array([3, 4, 5]), np.array([19])])
    assert left.tolist() == [0, 1, 2, *range(6, 19)]
    assert blocks_of(left, 4) == [range(0, 3), range(6, 8), range(8, 12), range(12, 16), range(16, 19)]
    assert blocks_of(left[:0], 4) == []


def test_progress_is_told(folder, capsys, monkeypatch):
    features_of(folder, progress=True)
    assert capsys.readouterr().out == ""


# Several processes

SCRIPT = """
import sys
sys.path.insert(0, {helpers!r})
import torch
torch.set_num_threads(1)
from tiny_features import EXTRACTOR, bars
from fewstep.eval.images import image_set
from fewstep.eval.passes.collect import collect
from fewstep.eval.passes.processes import Processes

processes, told = Processes.current("cpu"), []
for batch, number, resume in {cases!r}:
    found = collect(image_set({folder!r}), EXTRACTOR, statistics=("main",), rows=("main",), kept=25, batch_size=batch,
                    number=number, processes=processes, resume=resume)
    everywhere = processes.gather(float(found.statistics["main"].cov.sum()))
    assert len(everywhere) == {size} and len(set(everywhere)) == 1
    main = found.statistics["main"]
    told.append((found.n, found.rows["main"], main.mean, main.cov, bars(found)))
if processes.first:
    torch.save(told, {out!r})
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_processes_together_give_the_same(folder, tmp_path, size):
    """Whole batches and some, as many as one batch holds, and fewer images than dimensions, where there is no matrix."""
    script, out = tmp_path / "run.py", tmp_path / "found.pt"
    cases = [(8, None, str(tmp_path / "state")), (25, None, None), (3, 11, None)]
    values = {"helpers": str(HELPERS), "folder": str(folder), "out": str(out), "size": size, "cases": cases}
    script.write_text(textwrap.dedent(SCRIPT).format(**values))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}", str(script)]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    for (_, number, resume), told in zip(cases, torch.load(out, weights_only=False), strict=True):
        n, rows, mean, cov, theirs = told
        alone = features_of(folder, number=number)
        assert n == (number or 61)
        assert_same_bars(theirs, bars(alone), 1e-6)
        assert len(theirs[0]) == min(25, n) and (theirs[3] is None) == (n < 20)
        np.testing.assert_allclose(rows, alone.rows["main"], rtol=1e-6)
        torch.testing.assert_close(mean, alone.statistics["main"].mean, rtol=1e-9, atol=0)
        torch.testing.assert_close(cov, alone.statistics["main"].cov, rtol=0, atol=1e-9 * float(cov.abs().max()))
        if resume:  # another number of processes finds their work done
            again = features_of(folder, resume=resume)
            assert_same(again, alone, 1e-9)
