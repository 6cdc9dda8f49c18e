"""What one process has collected, as files: raw features on disk, and a state from which an interrupted run goes on.

    FOLDER/KEY/shard-RUN-RANK.npz           which samples were seen, the moments of their features and a sample of them
    FOLDER/KEY/shard-RUN-RANK-PART.f32      their feature vectors one after another, where a metric needs them

KEY is a hash of images, extractor and what is collected, so that one folder serves many evaluations. A shard is written
whole after its features; features past the count that the shard tells are not looked at. Every run writes shards of its
own, so a run may go on with another number of processes or another batch size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fewstep.eval.gaussian.statistics import FeatureStatistics
from fewstep.output.files import whole


class RowFile:
    """Feature vectors (n, d) float32, appended to a file and read back as a memory map.

    The first rows start the file anew: what lies there is of a run that died before it saved a state.
    """

    def __init__(self, path: Path, dim: int) -> None:
        self.path, self.dim = path, dim
        self._mode = "wb"

    def append(self, rows: np.ndarray) -> None:
        with open(self.path, self._mode) as stream:
            np.ascontiguousarray(rows, np.float32).tofile(stream)
        self._mode = "ab"

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
        self.path = path
        alone = path is None and bool(wanted.rows)
        self._temporary = TemporaryDirectory(prefix="fewstep-", ignore_cleanup_errors=True) if alone else None
        stem = path.with_suffix("") if path else Path(self._temporary.name if self._temporary else "") / "rows"
        self.seen: list[np.ndarray] = []
        self.skipped: list[np.ndarray] = []
        self.statistics = {part: FeatureStatistics(dim, wanted.kept) for part, dim in wanted.statistics.items()}
        self.rows = {part: RowFile(stem.with_name(f"{stem.name}-{part}.f32"), dim) for part, dim in wanted.rows.items()}

    @property
    def indices(self) -> np.ndarray:
        """Samples seen, in the order of their rows."""
        return np.concatenate([np.zeros(0, np.int64), *self.seen])

    @property
    def missing(self) -> np.ndarray:
        """Samples that could not be used."""
        return np.concatenate([np.zeros(0, np.int64), *self.skipped])

    def add(self, indices: np.ndarray, features: Mapping[str, Any], skipped: Iterable[int] = ()) -> None:
        """Features {part: (B, d)} of samples `indices` (B,)."""
        for part, statistics in self.statistics.items():
            statistics.update(features[part], indices)
        for part, file in self.rows.items():
            block = features[part].float().cpu().numpy()
            if part not in self.statistics and not np.isfinite(block).all():
                raise ValueError(f"features of samples {indices[0]} to {indices[-1]} are NaN or infinite.")
            file.append(block)
        self.seen.append(np.asarray(indices, np.int64))
        self.skipped.append(np.array(sorted(skipped), np.int64))

    def save(self) -> None:
        """Write the state whole."""
        assert self.path is not None
        arrays: dict[str, np.ndarray] = {"seen": self.indices, "missing": self.missing}
        for part, statistics in self.statistics.items():
            arrays |= {f"{part}.{name}": array for name, array in statistics.arrays().items()}
        with whole(self.path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path, wanted: Wanted) -> Shard:
        """What `save` wrote."""
        shard = cls(wanted, path)
        with np.load(path, allow_pickle=False) as arrays:
            shard.seen, shard.skipped = [arrays["seen"]], [arrays["missing"]]
            for part in wanted.statistics:
                held = {name.removeprefix(f"{part}."): arrays[name] for name in arrays if name.startswith(f"{part}.")}
                shard.statistics[part] = FeatureStatistics.of_arrays(held, wanted.kept)
        return shard


def found(folder: Path) -> list[Path]:
    """The shards of a folder, in order."""
    return sorted(folder.glob("shard-*.npz"))


def next_run(folder: Path) -> int:
    """Number of the run that begins now."""
    return 1 + max((int(path.stem.split("-")[1]) for path in found(folder)), default=-1)
