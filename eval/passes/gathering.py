"""The shards of all processes and of all runs as one set of features."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from fewstep.eval.gaussian.features import Features, Meta
from fewstep.eval.images.image_sets import digest
from fewstep.eval.passes.processes import Processes, require_distinct
from fewstep.eval.passes.shards import Shard, Wanted
from fewstep.output.files import not_written

GATHERED = 4096  # rows that a process hands over at once


def gathered(
    meta: Meta, layers: dict[str, str], mine: Shard, earlier: list[Shard], wanted: Wanted, processes: Processes
) -> Features:
    """All shards of all processes as one; the statistics of `mine` are used up. layers: of the extractor, by part."""
    own = [mine, *earlier]
    for shard in own:
        shard.settle()
    if processes.own:
        require_distinct(processes.gather(_print(own)))
    for shard in own[1:]:
        for part, statistics in mine.statistics.items():
            statistics.merge(shard.statistics[part])
    merged = {part: processes.merged(statistics) for part, statistics in mine.statistics.items()}
    n = sum(processes.gather(sum(len(shard.indices) for shard in own)))
    processes.meet()
    numbers = np.concatenate([i for found in processes.gather([shard.indices for shard in own]) for i in found])
    if len(np.unique(numbers)) < len(numbers):
        raise ValueError(
            f"{meta.source} have numbers that are given twice: `index` numbers every image of all processes once"
        )
    if n < 2:
        raise ValueError(f"statistics need at least 2 images; {meta.source} gave {n} that could be used.")
    rows = {part: _ordered(part, dim, own, n, processes) for part, dim in wanted.rows.items()}
    skipped = sum(processes.gather(sum(len(shard.missing) for shard in own)))
    return Features(n, merged, rows, replace(meta, skipped=skipped), layers, np.sort(numbers))


def _print(own: list[Shard]) -> str | None:
    """What tells the images of a process from those of another; None where it has none."""
    seen = [shard for shard in own if len(shard.indices)]
    means = [of.mean.cpu().numpy().tobytes() for shard in seen for of in shard.statistics.values()]
    codes = [file.code for shard in seen for file in shard.rows.values()]
    return digest(sum(len(shard.indices) for shard in seen), *means, *codes) if seen else None


def _ordered(part: str, dim: int, own: list[Shard], n: int, processes: Processes) -> np.ndarray:
    """Rows of all shards of all processes in the order of the samples, on the first process."""
    pieces = [(shard.indices, shard.rows[part].read(len(shard.indices))) for shard in own]
    if processes.size == 1 and len(pieces) == 1 and (np.diff(pieces[0][0]) > 0).all():
        rows = pieces[0][1]
        _keep_alive(rows, own[0])
        return rows
    holder = Shard(Wanted({}, {"all": dim}))  # a temporary folder of its own
    file = holder.rows["all"].path
    target = _mapped(file, n, dim) if processes.first else np.zeros((0, dim), np.float32)
    order = np.sort(np.concatenate([i for found in processes.gather([i for i, _ in pieces]) for i in found]))
    parts = [(i[k : k + GATHERED], r[k : k + GATHERED]) for i, r in pieces for k in range(0, len(i), GATHERED)]
    for turn in range(max(processes.gather(len(parts)))):
        sent = (parts[turn][0], np.array(parts[turn][1])) if turn < len(parts) else None
        for got in processes.gather(sent):
            if got is not None and processes.first:
                target[np.searchsorted(order, got[0])] = got[1]
    _keep_alive(target, holder)
    return target


def _mapped(file: Path, n: int, dim: int) -> np.ndarray:
    """A new file of n rows as a memory map; its room is taken now, for a full disk would end the process later on."""
    try:
        with open(file, "wb") as stream:
            stream.truncate(4 * n * dim)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, 4 * n * dim)
        return np.memmap(file, np.float32, "r+", shape=(n, dim))
    except OSError as error:
        raise not_written(file, error) from error


def _keep_alive(rows: np.ndarray, shard: Shard) -> None:
    """A temporary folder lives as long as the map of a file in it."""
    if isinstance(rows, np.memmap):
        rows._shard = shard  # type: ignore[attr-defined]
