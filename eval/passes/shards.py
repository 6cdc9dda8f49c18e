"""What one process has collected, as files: raw features on disk, and a state from which an interrupted run goes on.

    FOLDER/KEY/shard-RUN-RANK.npz           which samples were seen, the moments of their features and a sample of them
    FOLDER/KEY/shard-RUN-RANK-PART.f32      their feature vectors one after another, where a metric needs them

KEY is a hash of images, extractor and what is collected, so that one folder serves many evaluations. A shard is written
whole after its features; features past the count that the shard tells are not looked at. Every run writes shards of its
own, so a run may go on with another number of processes or another batch size.

A shard carries the sha256 of its arrays, and among these that of its feature vectors. One of an earlier release carries
none: its parts are compared with each other.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fewstep.eval.feed.waiting import Doubt, Waiting
from fewstep.eval.gaussian.arrayfile import arrays_in, write_arrays
from fewstep.eval.gaussian.statistics import FeatureStatistics
from fewstep.output.files import not_written
from fewstep.output.seal import SEAL, Damaged, digest_of_file

REMEDY = "Remove it with the .f32 files beside it of the same number: its images are then looked at again"
ROWS, READ = "rows.", 4096  # before the parts of all feature vectors; of these so many are read at once
_FORMS = {"seen": (1, "i"), "missing": (1, "i")}  # axes and kind of the arrays that every shard has


class RowFile:
    """Feature vectors (n, d) float32, appended to a file and read back as a memory map.

    The first rows start the file anew: what lies there is of a run that died before it saved a state.
    """

    def __init__(self, path: Path, dim: int) -> None:
        self.path, self.dim = path, dim
        self._mode, self._hash = "wb", hashlib.sha256()

    def append(self, rows: np.ndarray) -> None:
        data = np.ascontiguousarray(rows, np.float32).tobytes()
        try:
            with open(self.path, self._mode) as stream:
                stream.write(data)
        except OSError as error:
            raise not_written(self.path, error) from error
        self._hash.update(data)
        self._mode = "ab"

    @property
    def code(self) -> str:
        """sha256 of all rows that were appended."""
        return self._hash.hexdigest()

    def check(self, n: int, code: str | None) -> None:
        """Damaged where the first n rows are not there, or are others than those of the code."""
        try:
            size = self.path.stat().st_size if self.path.is_file() or n else 0
            if size < 4 * n * self.dim:
                raise Damaged(f"{self.path} ends before the last of its {n} feature vectors: it was cut off. {REMEDY}")
            if code is not None and code != digest_of_file(self.path, 4 * n * self.dim):
                raise Damaged(
                    f"{self.path} was changed or damaged after it was written: its sha256 is another. {REMEDY}"
                )
        except OSError as error:
            raise Damaged(f"{self.path} cannot be read ({error.strerror or error}). {REMEDY}") from error

    def read(self, n: int) -> np.ndarray:
        """The first n rows."""
        if n == 0:
            return np.zeros((0, self.dim), np.float32)
        return np.memmap(self.path, np.float32, "r", shape=(n, self.dim))


@dataclass(frozen=True)
class Wanted:
    """Dimension of every part of which moments and a sample of `kept` rows, or all feature vectors are kept."""

    statistics: dict[str, int]
    rows: dict[str, int]
    kept: int | None = None


class Shard:
    """Samples seen so far by one process: their moments and, where asked for, their features.

    Args:
        wanted: what is kept.
        path: the .npz that `save` writes; None keeps features in a temporary folder and cannot be saved.
    """

    def __init__(self, wanted: Wanted, path: Path | None = None) -> None:
        self.path, self.wanted = path, wanted
        alone = path is None and bool(wanted.rows)
        self._temporary = TemporaryDirectory(prefix="fewstep-", ignore_cleanup_errors=True) if alone else None
        stem = path.with_suffix("") if path else Path(self._temporary.name if self._temporary else "") / "rows"
        self.waiting = Waiting()
        self.seen: list[np.ndarray] = []
        self.skipped: list[np.ndarray] = []
        self.statistics = {part: FeatureStatistics(dim, wanted.kept) for part, dim in wanted.statistics.items()}
        self.rows = {part: RowFile(stem.with_name(f"{stem.name}-{part}.f32"), dim) for part, dim in wanted.rows.items()}

    @property
    def count(self) -> int:
        """Samples seen; of those that wait, all."""
        return sum(map(len, self.seen)) + self.waiting.count

    @property
    def indices(self) -> np.ndarray:
        """Samples seen, in the order of their rows."""
        self.settle()
        return np.concatenate([np.zeros(0, np.int64), *self.seen])

    @property
    def missing(self) -> np.ndarray:
        """Samples that could not be used."""
        self.settle()
        return np.concatenate([np.zeros(0, np.int64), *self.skipped])

    def add(
        self, indices: np.ndarray, features: Mapping[str, Any], skipped: Iterable[int] = (), doubt: Doubt | None = None
    ) -> None:
        """Features {part: (B, d)} of samples `indices` (B,); on a device they wait there for others.

        doubt: what is not known yet of their images.
        """
        self.skipped.append(np.array(sorted(skipped), np.int64))
        self.waiting.add(indices, features, doubt)
        if self.waiting.full:
            self.settle()

    def settle(self) -> None:
        """Count what waits. ValueError: an image that cannot be used, features that are not finite."""
        if not self.waiting.count:
            return
        indices, features, passed = self.waiting.taken()
        for part, statistics in self.statistics.items():
            statistics.update(features[part], indices)
        for part, file in self.rows.items():
            block = features[part].float().cpu().numpy()
            if part not in self.statistics and not np.isfinite(block).all():
                raise ValueError(f"features of samples {indices[0]} to {indices[-1]} are NaN or infinite.")
            file.append(block)
        self.seen.append(indices)
        self.skipped.append(passed)

    def snapshot(self) -> Shard:
        """What has been seen until now, of which the statistics may be used up; feature vectors are read where they lie."""
        self.settle()
        other = copy.copy(self)
        other.waiting = Waiting()
        other.seen, other.skipped = list(self.seen), list(self.skipped)
        other.statistics = copy.deepcopy(self.statistics)
        return other

    def merge(self, other: Shard, anew: Mapping[int, int] | None = None) -> None:
        """Add what `other` has seen; anew: other numbers for its samples.

        Where some vectors were dropped from its sample, the sample stays what chance made it, under the old numbers.
        """

        def renamed(index: np.ndarray) -> np.ndarray:
            return index if anew is None else np.array([anew[int(i)] for i in index], np.int64)

        self.settle()
        other.settle()
        for part, statistics in other.statistics.items():
            if statistics.sketch.whole:
                statistics = copy.deepcopy(statistics)
                statistics.sketch.index = renamed(statistics.sketch.index)
            self.statistics[part].merge(statistics)
        n = len(other.indices)
        for part, file in other.rows.items():
            for k in range(0, n, READ):
                self.rows[part].append(file.read(n)[k : k + READ])
        self.seen.append(renamed(other.indices))
        self.skipped.append(other.missing)

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {"seen": self.indices, "missing": self.missing}
        for part, statistics in self.statistics.items():
            arrays |= {f"{part}.{name}": array for name, array in statistics.arrays().items()}
        return arrays

    def everything(self) -> dict[str, np.ndarray]:
        """All that was seen, every feature vector too, as arrays."""
        return {
            **self._arrays(),
            **{f"{ROWS}{part}": file.read(len(self.indices)) for part, file in self.rows.items()},
        }

    @classmethod
    def of_everything(cls, arrays: Mapping[str, np.ndarray], moments: Sequence[str], rows: Sequence[str]) -> Shard:
        """The inverse of `everything`, for these parts."""
        dims = {part: arrays[f"{part}.sketch.rows"].shape[1] for part in moments}
        made = cls(Wanted(dims, {part: arrays[f"{ROWS}{part}"].shape[1] for part in rows}))
        made._take(arrays, made.wanted, files=False)
        for part, file in made.rows.items():
            file.append(arrays[f"{ROWS}{part}"])
        return made

    def save(self) -> None:
        """Write the state whole."""
        assert self.path is not None
        arrays = self._arrays()
        for part, file in self.rows.items():
            arrays[f"{SEAL}-{part}"] = np.array(file.code if len(self.indices) else "")
        write_arrays(self.path, arrays)

    @classmethod
    def load(cls, path: Path, wanted: Wanted, count: int | None = None) -> Shard:
        """What `save` wrote, of a set of `count` images. Damaged where it is not that."""
        arrays = arrays_in(path, remedy=REMEDY)
        shard = cls(wanted, path)
        try:
            shard._take(arrays, wanted)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            if isinstance(error, Damaged):
                raise
            raise Damaged(f"{path} does not hold the state of an evaluation ({error}). {REMEDY}") from error
        seen = np.concatenate([shard.indices, shard.missing])
        if len(seen) and not 0 <= seen.min() <= seen.max() < (count or np.inf):
            raise Damaged(f"{path} tells of images that the set does not have. {REMEDY}")
        if len(np.unique(seen)) < len(seen):
            raise Damaged(f"{path} tells of an image twice: two runs wrote it at once. {REMEDY}")
        return shard

    def _take(self, arrays: Mapping[str, np.ndarray], wanted: Wanted, files: bool = True) -> None:
        """The state in these arrays; any error where they are not those of a state. files: feature vectors are there too."""
        for name, (axes, kind) in _FORMS.items():
            if arrays[name].ndim != axes or arrays[name].dtype.kind != kind:
                raise ValueError(f"{name} is of {arrays[name].dtype} {arrays[name].shape}")
        self.seen, self.skipped = [arrays["seen"]], [arrays["missing"]]
        n = len(self.indices)
        for part, dim in wanted.statistics.items():
            held = {name.removeprefix(f"{part}."): a for name, a in arrays.items() if name.startswith(f"{part}.")}
            self.statistics[part] = FeatureStatistics.of_arrays(held, wanted.kept)
            if (self.statistics[part].dim, self.statistics[part].n) != (dim, n):
                raise ValueError(f"the statistics of {part} are of {self.statistics[part].n} vectors, and not of {n}")
        for part, file in self.rows.items() if files else ():
            assert self.path is not None
            code = str(arrays[f"{SEAL}-{part}"]) if SEAL in arrays else None
            file.check(n, code or None)
            if code is None:
                _agree(part, file.read(n), self.indices, self.statistics.get(part), self.path)


def _agree(part: str, rows: np.ndarray, seen: np.ndarray, statistics: FeatureStatistics | None, path: Path) -> None:
    """Damaged where feature vectors without a code are not those that the statistics of the same part are of."""
    fine = bool(np.isfinite(rows).all())
    if fine and statistics is not None and len(seen):
        sketch, order = statistics.sketch, np.argsort(seen)
        places = order[np.searchsorted(seen, sketch.index, sorter=order).clip(max=len(seen) - 1)]
        fine = np.array_equal(seen[places], sketch.index) and np.array_equal(rows[places], sketch.rows)
        spread = np.abs(rows).max() if fine else 0.0
        mean = rows.mean(0, dtype=np.float64)
        fine = fine and bool(np.abs(mean - statistics.mean.cpu().numpy()).max() <= 1e-9 * spread)
    if not fine:
        raise Damaged(f"{path} and its feature vectors of {part} contradict each other: one was damaged. {REMEDY}")


def found(folder: Path) -> list[Path]:
    """The shards of a folder, in order."""
    return sorted(path for path in folder.glob("shard-*.npz") if _run(path) is not None)


def next_run(folder: Path) -> int:
    """Number of the run that begins now, which no other run has or will have: a file run-NUMBER is made for it."""
    taken = [*folder.glob("shard-*.npz"), *folder.glob("run-*")]
    run = 1 + max((number for path in taken if (number := _run(path)) is not None), default=-1)
    while True:
        try:
            with open(folder / f"run-{run:03d}", "x"):
                return run
        except FileExistsError:
            run += 1
        except OSError as error:
            raise not_written(folder / f"run-{run:03d}", error) from error


def _run(path: Path) -> int | None:
    """The number of the run that a file's name tells; None for names of others."""
    number = [*path.stem.split("-"), ""][1]
    return int(number) if number.isascii() and number.isdigit() else None
