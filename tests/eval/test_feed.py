"""The feed of a network: nothing waits that need not, and what comes out is what one image after another gives."""

from __future__ import annotations

import resource
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import HostRead, fake_gpu
from imagesets import blobs, written
from random_inception import random_state
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import fewstep.eval as fe
from fewstep.eval.extractors.resize import PROTOCOLS
from fewstep.eval.feed import waiting, worker_count
from fewstep.eval.feed.ahead import DEEP, Batch, ahead
from fewstep.eval.feed.end_to_end import together
from fewstep.eval.feed.quantising import UNUSABLE, batch_of_levels
from fewstep.eval.gaussian.moments import Moments
from fewstep.eval.images.reading import automatic, batches_of
from fewstep.eval.metrics import blocks
from fewstep.eval.passes.collect import collect, extracted
from fewstep.eval.passes.shards import Shard, Wanted

RANDOM = np.random.default_rng(0)
FLOATS = RANDOM.random((9, 3, 8, 7), np.float32)


def without_values(extractor: torch.nn.Module, device: torch.device) -> None:
    """Weights of which only the shape is on the device."""
    for module in extractor.modules():
        for name, w in module._parameters.items():
            if w is not None:
                module._parameters[name] = torch.nn.Parameter(torch.empty_like(w, device=device), requires_grad=False)


class Small(fe.Extractor):
    """As Inception, with one convolution."""

    name, protocol, layers, parts = "small", "own", {"main": 16, "map": 27}, {"main": "main", "spatial": "map"}

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 16, 3, stride=4)

    def prepare(self, images: Tensor) -> Tensor:
        return PROTOCOLS["tf"](images, 13)

    def taps(self, x: Tensor, layers: Any) -> dict[str, Tensor]:
        y = self.conv(x)
        return {"main": y.mean((2, 3)), "map": y[:, :3].flatten(1)}


def show(extractor: fe.Extractor, batches: int, device: torch.device, refused: Any) -> None:
    """Batches of 64 through a network on a device where the host can read nothing, the last of which makes a chunk whole."""
    dims = {part: extractor.layers[extractor.parts[part]] for part in ("main", "spatial")}
    shard = Shard(Wanted(dims, {"main": dims["main"]}))
    without_values(extractor, device)
    codes = torch.zeros(64, dtype=torch.uint8, device=device)
    for k in range(batches):
        index = np.arange(64 * k, 64 * k + 64)
        doubt = waiting.Doubt(index, codes, lambda i, c: np.ones(len(i), bool))
        pictures: Any = torch.zeros(64, 3, 31, 33, dtype=torch.uint8, device=device)
        if k % 2 == 0:  # of two sizes
            pictures = [*pictures[:40], *torch.zeros(24, 3, 30, 34, dtype=torch.uint8, device=device)]
        with pytest.raises(refused) if k == batches - 1 else nullcontext():
            extracted(extractor, shard, index, pictures, (), doubt)


def test_no_batch_is_waited_for_and_a_chunk_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments, a sample and all vectors: on a device the host reads nothing until a chunk is whole."""
    monkeypatch.setattr(waiting, "CHUNK", 64 * 8)
    show(Small(), 8, torch.device("meta"), NotImplementedError)
    for shape, axis in (((4, 8, 9, 3), 3), ((4, 1, 8, 9), 1), ((4, 4, 8, 9), 1), ((4, 8, 9), 1)):
        pixels, codes = batch_of_levels(torch.empty(shape, device="meta"), (-1, 1), axis)
        assert pixels.shape == (4, 3, 8, 9) and pixels.is_meta and codes.is_meta


@pytest.mark.slow
def test_the_same_of_inception_on_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "CHUNK", 64 * 2)
    extractor = fe.InceptionV3(random_state())
    with fake_gpu() as device:
        show(extractor, 2, device, HostRead)


@pytest.mark.parametrize(
    ("array", "how"),
    [
        (FLOATS, {"range": (0, 1)}),
        (FLOATS.transpose(0, 2, 3, 1) * 255, {"range": (0, 255)}),
        (torch.from_numpy(FLOATS[:, 0].copy()).double() * 2 - 1, {"range": (-1, 1), "layout": "NHW"}),
        (torch.from_numpy(FLOATS).half(), {"range": (0, 1)}),
        (RANDOM.integers(0, 256, (9, 8, 7, 3), np.uint8), {}),
        (
            np.concatenate([RANDOM.integers(0, 256, (9, 3, 8, 7), np.uint8), np.full((9, 1, 8, 7), 255, np.uint8)], 1),
            {},
        ),
    ],
)
def test_whole_batches_are_the_images_one_by_one(array: Any, how: dict[str, Any]) -> None:
    """As a device that is no CPU is given them, computed on this one."""
    images = fe.image_set(array, **how)
    ranges = [range(0, 4), range(4, 9)]
    whole = [batch.made() for batch in batches_of(images, ranges, torch.device("cuda"))]
    assert torch.equal(torch.cat([batch.parts[0] for batch in whole]), torch.stack([images.image(i) for i in range(9)]))
    assert [batch.indices.tolist() for batch in whole] == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert all(batch.codes is not None and not batch.codes.any() for batch in whole)


def broken() -> np.ndarray:
    """Nine floats of which 2 is not finite, 3 of another range, 5 black, and 7 outside in too few places to matter."""
    x = np.array(FLOATS)
    x[2, 0, 1, 1], x[5] = np.nan, 0.0
    x[3] = 1.5
    x[7, 0, 0, 0] = 1.2
    return x


def seen_late(monkeypatch: pytest.MonkeyPatch, images: Any, **how: Any) -> Any:
    """A pass whose network takes whole batches and is asked at the end, as if it were on a GPU."""
    monkeypatch.setattr(waiting.Waiting, "full", property(lambda self: self.count >= 100))
    chosen = type(images).whole
    monkeypatch.setattr(type(images), "whole", lambda self, blocks, device: chosen(self, blocks, torch.device("cuda")))
    return collect(images, fe.extractor("digits"), rows=("main",), **how)


def test_what_is_wrong_is_found_out_later_in_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    images = {late: fe.image_set(broken(), range=(0, 1), skip_bad=True) for late in (False, True)}
    with pytest.warns(UserWarning, match="passed over: 2.*holds NaN") as first:
        now = collect(images[False], fe.extractor("digits"), rows=("main",))
    with monkeypatch.context() as patched, pytest.warns(UserWarning, match="black") as second:
        then = seen_late(patched, images[True], batch_size=4)
    assert sorted(str(w.message) for w in first) == sorted(str(w.message) for w in second)
    assert images[True].skipped == images[False].skipped and images[True].black == images[False].black == [5]
    assert then.n == now.n == 7 and then.meta.skipped == 2
    assert np.abs(then.rows["main"] - now.rows["main"]).max() < 1e-5
    assert (then.statistics["main"].mean - now.statistics["main"].mean).abs().max() < 1e-6
    with monkeypatch.context() as patched, pytest.raises(ValueError, match="image 2 of an array .* holds NaN"):
        seen_late(patched, fe.image_set(broken(), range=(0, 1)))


def test_a_chunk_is_what_its_batches_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics of features that waited equal those that were taken at once."""
    rows = torch.from_numpy(RANDOM.standard_normal((700, 5)))
    found = []
    for late in (False, True):
        with monkeypatch.context() as patched:
            if late:
                patched.setattr(waiting.Waiting, "full", property(lambda self: self.count >= 300))
            shard = Shard(Wanted({"main": 5}, {"main": 5}))
            for k in range(0, 700, 50):
                shard.add(np.arange(k, k + 50), {"main": rows[k : k + 50]})
                assert shard.count == k + 50
            assert (len(shard.seen) == 14) is not late
            arrays = shard.everything()
        found.append(arrays)
    assert found[0].keys() == found[1].keys()
    for name, array in found[0].items():
        assert np.abs(array - found[1][name]).max(initial=0) < 1e-11, name


def test_neighbours_in_memory_are_a_batch_without_a_copy() -> None:
    block = torch.arange(5 * 3 * 4 * 2, dtype=torch.uint8)
    views = [part.view(3, 4, 2) for part in block.split(24)]
    (batch,) = together(views)
    assert batch.data_ptr() == block.data_ptr() and torch.equal(batch.flatten(), block)
    other = torch.ones(3, 2, 4, dtype=torch.uint8)
    assert [len(part) for part in together([*views[:2], other, *views[2:]])] == [2, 1, 3]
    swapped = together([views[1], views[0]])
    assert torch.equal(swapped[0], torch.stack([views[1], views[0]])) and together([]) == []
    assert torch.equal(together([views[0], views[0].clone()])[0], torch.stack(views[:1] * 2))


class Written:
    """A lane that writes down what is asked for."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.copied = self.done = 0

    def bring(self, parts: list[Tensor]) -> tuple[list[Tensor], int]:
        self.events.append(("copy", self.copied))
        self.copied += 1
        return [part + 0 for part in parts], self.copied - 1

    def wait_for(self, there: int) -> None:
        self.events.append(("work waits for copy", there))

    def worked(self) -> int:
        self.done += 1
        return self.done - 1

    def until(self, done: int) -> None:
        self.events.append(("host waits for work", done))


def test_a_copy_is_asked_for_before_the_work_on_the_batch_before_is_done() -> None:
    lane = Written()
    batches = (Batch(np.arange(2), [torch.full((2, 3, 1, 1), k, dtype=torch.uint8)]) for k in range(6))
    for k, batch in enumerate(ahead(batches, torch.device("cuda"), lane)):
        assert int(batch.parts[0].max()) == k
        lane.events.append(("work", k))
    place = {event: n for n, event in enumerate(lane.events)}
    for k in range(5):
        between = lane.events[place["work", k] : place["copy", k + 1]]
        waited = [which for word, which in between if word == "host waits for work"]
        assert all(which <= k - DEEP + 1 for which in waited)  # with other work still to do
        assert place["work", k + 1] - place["work waits for copy", k + 1] == 1
    assert len([word for word, _ in lane.events if word == "host waits for work"]) == 6 - DEEP


class Slow(fe.Extractor):
    """Takes a while for a batch, as a network on a GPU does: the cores are free meanwhile."""

    name, protocol, layers, parts, seconds = "slow", "own", {"main": 3}, {"main": "main"}, 0.06

    def prepare(self, images: Tensor) -> Tensor:
        return images.float()

    def taps(self, x: Tensor, layers: Any) -> dict[str, Tensor]:
        time.sleep(self.seconds)
        return {"main": x.mean((2, 3))}


def test_in_a_trace_the_network_waits_for_nothing_but_the_first_batch(tmp_path: Path) -> None:
    """Gaps between the batches, of images that a worker decodes in less time than the network takes."""
    images = fe.image_set(
        written(tmp_path, [f"{k:03d}.png" for k in range(64)], np.repeat(blobs(64, 0)[..., None], 3, -1))
    )
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        collect(images, Slow(), batch_size=8, workers=1)
    spans = sorted((e.time_range.start, e.time_range.end) for e in seen.events() if e.name == "fewstep.feed.extract")
    gaps = [(later[0] - earlier[1]) / 1e6 for earlier, later in zip(spans, spans[1:], strict=False)]
    assert len(spans) == 8 and sum(gaps) < 0.5 * sum(end - start for start, end in spans) / 1e6


def test_workers_are_as_many_as_cores_images_and_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none=False: "fork")
    much = 1 << 40
    count = worker_count.worker_count
    assert count(50_000, 1 << 20, cores=16, room=much) == 15
    assert count(50_000, 1 << 20, cores=1, room=much) == 0
    assert count(600, 1 << 20, cores=16, room=much) == 2 and count(100, 1 << 20, cores=16, room=much) == 0
    assert count(50_000, 1 << 20, cores=16, room=32 << 20) == 10  # a container with 64 MB of shared memory
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none=False: "spawn")
    assert count(50_000, 1 << 20, cores=16, room=much) == 0
    limit = tmp_path / "cpu.max"
    limit.write_text("350000 100000\n")
    assert worker_count.quota(limit) == 4 and worker_count.quota(tmp_path / "none") > 1000
    limit.write_text("max 100000\n")
    assert worker_count.quota(limit) > 1000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(10**6))
    assert worker_count.usable_cores() == 1


def test_workers_come_by_themselves_for_a_gpu_and_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.eval.images.reading.worker_count", lambda images, size: (images, size))
    folder = fe.image_set(written(tmp_path))
    ranges = [range(0, 4), range(4, 7)]
    assert automatic(folder, ranges, torch.device("cuda")) == (7, 4 * 3 * 12 * 10)
    assert automatic(folder, ranges, torch.device("cpu")) == 0 and automatic(folder, [], torch.device("cuda")) == 0
    own = fe.image_set(torch.utils.data.TensorDataset(torch.zeros(7, 3, 4, 4, dtype=torch.uint8)))
    assert own.parallel and automatic(own, ranges, torch.device("cuda")) == 0


def test_moments_of_a_file_go_on_where_the_rows_are() -> None:
    """What an interrupted run left behind, on the CPU, and rows of a device: one device, in either order."""
    before, device = Moments(6), torch.device("meta")
    before.add(torch.from_numpy(RANDOM.standard_normal((700, 6))))
    before.flush()

    def restored() -> Moments:
        return Moments.of_arrays(before.arrays())

    for fresh in (3, 600):
        mine, file, more = Moments(6), restored(), restored()
        mine.add(torch.empty(fresh, 6, device=device))
        mine.merge(restored())
        file.merge(mine)
        more.add(torch.empty(fresh, 6, device=device))
        for made, n in ((mine, 700 + fresh), (more, 700 + fresh), (file, 1400 + fresh)):
            assert all(part.device == device for part in made.done()) and made.merged == n


def test_codes_of_a_batch() -> None:
    pixels, codes = batch_of_levels(torch.from_numpy(broken()), (0, 1))
    assert codes.tolist() == [0, 0, UNUSABLE, UNUSABLE, 0, 1, 0, 0, 0] and codes.dtype == torch.uint8
    clear = torch.full((2, 4, 3, 3), 255, dtype=torch.uint8)
    clear[1, 3, 0, 0] = 7
    assert batch_of_levels(clear)[1].tolist() == [0, UNUSABLE]


@pytest.mark.slow
def test_two_workers_decode_almost_twice_as_fast(tmp_path: Path) -> None:
    """1.8 times one, by the time of processors: others may have the second core, and no clock would tell.

    One worker makes 1 / w images a second; two, on two cores which this process needs too, 2 / (w + m).
    """
    pixels = RANDOM.integers(0, 256, (128, 192, 192, 3), np.uint8)
    images = fe.image_set(written(tmp_path, [f"{k:04d}.png" for k in range(128)], pixels))
    ranges = 5 * [range(k, k + 16) for k in range(0, 128, 16)]  # enough that starting them does not count

    def spent() -> list[float]:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return [one.ru_utime + one.ru_stime for one in used]

    for workers in (1, 2):  # the first time libraries are loaded
        before = spent()
        assert sum(len(batch.indices) for batch in batches_of(images, ranges, torch.device("cpu"), workers)) == 640
        m, w = (after - begun for after, begun in zip(spent(), before, strict=True))
    assert 2 * w / (w + m) > 1.8


@pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="torch 2.6 asks a driver for a part of a tensor, values or not"
)
def test_rows_lie_on_the_device_and_are_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of KID, precision and recall; computed on a CPU that is taken for another device."""
    rows = RANDOM.standard_normal((23, 4)).astype(np.float32)
    shift = rows.mean(0, dtype=np.float64)
    index = np.array([3, 3, 22, 0])
    plain = blocks.Blocks(rows, 5, None, shift)
    with fake_gpu() as device:
        monkeypatch.setattr(blocks, "free_bytes", lambda place: 10**6)
        monkeypatch.setattr(blocks.Blocks, "place", property(lambda self: device))
        there = blocks.Blocks(rows, 5, None, shift)
        assert there.resident is not None and there.resident.device == device and there.resident.dtype == torch.float32
        assert there[slice(5, 10)].dtype == torch.float64 and there[index].shape == (4, 4)
        monkeypatch.setattr(blocks, "free_bytes", lambda place: 0)
        assert blocks.Blocks(rows, 5).resident is None
    monkeypatch.undo()
    held = blocks.Blocks(rows, 5, None, shift)
    held.__dict__["resident"] = torch.from_numpy(rows.copy())
    for part in (slice(5, 10), index):
        assert torch.equal(held[part], plain[part])
    assert torch.equal(held.resident, torch.from_numpy(rows)) and plain.resident is None
