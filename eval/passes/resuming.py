"""Where an evaluation goes on: a folder that is one run's at a time, and what earlier runs have left in it, each image once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from fewstep.eval.images.image_sets import ImageSet
from fewstep.eval.passes import shards
from fewstep.eval.passes.answers import check_answers
from fewstep.eval.passes.processes import Processes
from fewstep.eval.passes.shards import Shard, Wanted
from fewstep.output.exclusive import exclusive


@contextmanager
def going_on(
    folder: Path | None, images: ImageSet, wanted: Wanted, count: int | None, processes: Processes
) -> Iterator[tuple[Shard, list[Shard], list[np.ndarray]]]:
    """A shard for this process, those of earlier runs (on the first process), and the images that these have looked at.

    Until the block ends the folder is this run's alone: its first process holds the lock.
    """
    if folder is None:
        yield Shard(wanted), [], []
        return
    with ExitStack() as held:
        earlier: list[Shard] = []
        found: tuple[int, list[np.ndarray]] | None = None
        if processes.first:
            held.enter_context(exclusive(folder, "the resume folder"))
            check_answers(folder / "answers.npz", images.answers())
            earlier = disjoint(folder, wanted, count)
            done = [part for shard in earlier for part in (shard.indices, shard.missing)]
            found = shards.next_run(folder), done
        processes.meet()
        run, done = processes.broadcast(found)
        yield Shard(wanted, _file(folder, run, processes)), earlier, done
        processes.meet()  # nobody writes any more


def _file(folder: Path, run: int, processes: Processes) -> Path:
    return folder / f"shard-{run:03d}-{processes.rank:03d}.npz"


def disjoint(folder: Path, wanted: Wanted, count: int | None) -> list[Shard]:
    """The shards of earlier runs, in order; one that tells of an image that another had told of is left out, with a warning.

    Its other images are looked at again: no image is counted twice.
    """
    kept: list[Shard] = []
    seen: np.ndarray = np.zeros(0, np.int64)
    for path in shards.found(folder):
        shard = Shard.load(path, wanted, count)
        own = np.concatenate([shard.indices, shard.missing])
        if (twice := np.intersect1d(seen, own)).size:
            warnings.warn(
                f"{path} tells of {len(twice)} images that an earlier shard has too (two runs wrote into one folder at once): "
                "it is left out, and what only it has is looked at again",
                stacklevel=2,
            )
            continue
        kept.append(shard)
        seen = np.concatenate([seen, own])
    return kept
