"""One pass over a set of images: read, extract, keep what the metrics need; in any number of processes, resumable.

    blocks of indices --> images --> extractor --> {part: moments and a sample of the features, or all of them on disk}

Blocks are dealt to the processes in turn; which process saw a sample, and in what batch, changes the result by rounding only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch.profiler import record_function

from fewstep.checks import whole
from fewstep.eval.extractors.base import Extractor
from fewstep.eval.feed.ahead import Batch, ahead
from fewstep.eval.feed.end_to_end import together
from fewstep.eval.feed.waiting import Doubt
from fewstep.eval.gaussian.features import Features, Meta
from fewstep.eval.images.image_sets import Images, ImageSet, digest
from fewstep.eval.images.reading import batches_of
from fewstep.eval.passes.gathering import gathered
from fewstep.eval.passes.processes import Processes
from fewstep.eval.passes.resuming import going_on
from fewstep.eval.passes.shards import Shard, Wanted
from fewstep.samplers.pipeline.eval_mode import in_eval_mode

SAVE_EVERY = 20.0  # seconds between states of a resumable run


def collect(
    images: ImageSet,
    extractor: Extractor,
    *,
    statistics: Sequence[str] = ("main",),
    rows: Sequence[str] = (),
    kept: int | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    number: int | None = None,
    processes: Processes | None = None,
    resume: str | Path | None = None,
    progress: bool = False,
) -> Features:
    """Features of a set of images, for the parts that are asked for.

    Args:
        images, extractor: what is looked at, and with what.
        statistics: parts ("main", "logits", "spatial") whose mean, covariance and a sample are kept, streaming.
        rows: parts whose feature vectors are kept, in a memory-mapped file.
        kept: feature vectors of a uniform sample beside the moments, for error bars; None: as `FeatureStatistics`.
        batch_size, workers: images at once, and processes that decode them; None: as many as help, none on a CPU.
        number: take the first so many images.
        processes: this process among others; None finds out.
        resume: a folder in which the state is kept, and found again after an interruption.
        progress: a bar on a terminal, else a plain line every now and then.

    Returns:
        Statistics on all processes, rows on the first one.

    Raises:
        ValueError: fewer than 2 images, a part that the extractor lacks, features that are not finite.
    """
    whole("batch_size", batch_size)
    if workers is not None:
        whole("workers", workers, 0)
    processes = processes or Processes(extractor.device)
    dims = {part: dimension(extractor, part) for part in {*statistics, *rows}}
    wanted = Wanted({part: dims[part] for part in statistics}, {part: dims[part] for part in rows}, kept)
    count = images.count if number is None or images.count is None else min(number, images.count)
    require_readable(images, processes, resume is not None)
    if processes.own and resume is not None:
        raise ValueError("`resume` is for images that all processes share: leave it away with processes='own'")
    if count is not None and count < 2 and not processes.own:
        raise ValueError(f"statistics need at least 2 images; {images.name} gives {count}.")
    folder = None if resume is None else Path(resume) / _key(images, extractor, wanted, number)
    how: dict[str, Any] = {"number": number, "batch_size": batch_size, "workers": workers, "progress": progress}
    with going_on(folder, images, wanted, count, processes) as (mine, earlier, done):
        left = None if count is None else undone(count, done)
        with in_eval_mode(extractor):
            _run(images, extractor, mine, left, processes, **how)
        processes.meet()
        meta = Meta.of(extractor, source=images.name, lossy=images.lossy)
        return gathered(meta, dict(extractor.parts), mine, earlier, wanted, processes)


def require_readable(images: ImageSet, processes: Processes, again: bool = False) -> None:
    """ValueError for images that can be read once where several processes share them, or that are to be read again."""
    if images.count is None and ((processes.size > 1 and not processes.own) or again):
        raise ValueError(
            f"{images.name} can be read once, by one process; give a folder, file, array or Dataset instead, or say "
            "processes='own' where each process has its own."
        )


def extracted(
    extractor: Extractor,
    shard: Shard,
    numbers: np.ndarray,
    pictures: Any,
    passed: Iterable[int] = (),
    doubt: Doubt | None = None,
) -> None:
    """Add the features of some images to what a process has seen; passed: others, that could not be used."""
    layers = {part: extractor.parts[part] for part in {*shard.statistics, *shard.rows}}
    with record_function("fewstep.feed.extract"):
        features = extractor.numbered(pictures, sorted(set(layers.values())), numbers)
    shard.add(numbers, {part: features[layer] for part, layer in layers.items()}, passed, doubt)


def dimension(extractor: Extractor, part: str) -> int:
    if part not in extractor.parts:
        raise ValueError(
            f"extractor {extractor.name!r} has no {part!r} layer, only {', '.join(extractor.parts)}: "
            "choose another metric, or the extractor inception."
        )
    return extractor.layers[extractor.parts[part]]


def _key(images: ImageSet, extractor: Extractor, wanted: Wanted, number: int | None) -> str:
    made_by = (extractor.name, extractor.protocol, extractor.hash, extractor.precision)
    more = [extractor.more] if hasattr(extractor, "more") else []  # of scores
    return digest(images.fingerprint, made_by, asdict(wanted), number, *more)


def undone(count: int, seen: Sequence[np.ndarray]) -> np.ndarray:
    """The numbers below `count` that are in none of the arrays."""
    left = np.ones(count, bool)
    for indices in seen:
        left[indices] = False
    return np.flatnonzero(left)


def blocks_of(left: np.ndarray, size: int) -> list[range]:
    """Runs of consecutive numbers, cut where a multiple of `size` begins."""
    if not len(left):
        return []
    cuts = np.flatnonzero((np.diff(left) != 1) | (left[1:] % size == 0)) + 1
    return [range(int(part[0]), int(part[-1]) + 1) for part in np.split(left, cuts)]


def _run(
    images: ImageSet,
    extractor: Extractor,
    shard: Shard,
    left: np.ndarray | None,
    processes: Processes,
    *,
    number: int | None,
    batch_size: int,
    workers: int | None,
    progress: bool,
) -> None:
    """Read this process's share of what is left and add its features to the shard."""
    device = extractor.device
    if left is None:
        batches, total = _first_of(images.stream(batch_size), number), number
    else:
        blocks = blocks_of(left, batch_size)
        if not processes.own:
            blocks = blocks[processes.rank :: processes.size]
        batches, total = batches_of(images, blocks, device, workers), sum(map(len, blocks))
    saved = time.monotonic()
    told = _told(batches, images.name, total, progress and processes.first)
    with images.telling(), closing(ahead(told, device)) as there:
        for batch in there:
            numbers, passed = processes.numbers(batch.indices), processes.numbers(batch.passed)
            doubt = None if batch.codes is None else Doubt(batch.indices, batch.codes, images.usable)
            if len(numbers):
                extracted(extractor, shard, numbers, batch.pictures, passed, doubt)
            elif len(passed):
                shard.skipped.append(passed)
            if shard.path is not None and time.monotonic() - saved > SAVE_EVERY:
                shard.save()
                saved = time.monotonic()
        shard.settle()  # before its images are told of
    if shard.path is not None:
        shard.save()


def _first_of(batches: Iterator[Images], number: int | None) -> Iterator[Batch]:
    """Of a stream, the first `number` images."""
    for indices, pictures in batches:
        keep = indices < (number if number is not None else np.inf)
        yield Batch(indices[keep], together([picture for picture, kept in zip(pictures, keep, strict=True) if kept]))
        if not keep.all():
            return


def _told(batches: Iterator[Batch], label: str, total: int | None, progress: bool) -> Iterator[Batch]:
    """The batches, with rate and remaining time: a bar on a terminal, elsewhere a line every ten seconds."""
    if not progress:
        yield from batches
        return
    from tqdm import tqdm

    bar = tqdm(total=total, unit="img", desc=label, leave=False, disable=not sys.stderr.isatty())
    begun = spoken = time.monotonic()
    done = 0
    for batch in batches:
        yield batch
        done += len(batch.indices)
        bar.update(len(batch.indices))
        now = time.monotonic()
        if bar.disable and now - spoken > 10:
            rate = done / (now - begun)
            rest = "" if total is None else f" of {total}, {tqdm.format_interval((total - done) / rate)} left"
            print(f"{label}: {done}{rest}, {rate:.1f} img/s", file=sys.stderr, flush=True)
            spoken = now
    bar.close()
