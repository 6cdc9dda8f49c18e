"""A uniform sample of rows, the same whatever the batches, their order or the processes: a bottom-k sketch.

Every row has a rank, a hash of its index alone, and the K rows of lowest rank are kept. Of any rows the K lowest are among
the K lowest of the parts, so that parts merge to what all rows at once would have left. Two sets of as many samples
keep the same indices: what is found from them can be compared in pairs.

Reference: Summarizing Data Using Bottom-k Sketches, Cohen and Kaplan, 2007; the hash is the mixing function of Fast Splittable
Pseudorandom Number Generators, Steele, Lea and Flood, 2014.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16, torch.float32)


def ranks(index: np.ndarray) -> np.ndarray:
    """64 bits that look random, one to one: no two indices have the same."""
    z = (index.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Sketch:
    """The `size` rows of lowest rank among all rows (d,) that were added, on the CPU; all of them while there are no more.

    Rows are kept as they were given: float64 in float64, others in float32, to which half precision converts exactly.

    Attributes:
        index: (k,) of which samples the rows are.
        rows: (k, d), in the same order.
        seen: number of rows that were added.
    """

    def __init__(self, dim: int, size: int) -> None:
        self.size, self.seen = size, 0
        self.index: np.ndarray = np.zeros(0, np.int64)
        self._rows = np.zeros((0, dim), np.float32)  # grows by doubling

    def __len__(self) -> int:
        return len(self.index)

    @property
    def rows(self) -> np.ndarray:
        return self._rows[: len(self)]

    @property
    def whole(self) -> bool:
        """Whether every row is still there."""
        return len(self) == self.seen

    def add(self, rows: Tensor, index: np.ndarray) -> None:
        """Take rows (B, d) of the samples `index` (B,)."""
        held = len(self)
        both = np.concatenate([self.index, index])
        lowest = (
            np.argpartition(ranks(both), self.size - 1)[: self.size] if len(both) > self.size else np.arange(len(both))
        )
        new = np.sort(lowest[lowest >= held]) - held
        self.seen += len(index)
        if not len(new):
            return
        stays = np.zeros(held, bool)
        stays[lowest[lowest < held]] = True
        slots = np.append(np.flatnonzero(~stays), np.arange(held, self.size))[: len(new)]
        taken = rows[torch.as_tensor(new, device=rows.device)]
        self._make_room(len(lowest), np.float32 if rows.dtype in HALVES else np.float64)
        self._rows[slots] = (taken.float() if rows.dtype in HALVES else taken.double()).cpu().numpy()
        self.index = np.append(self.index, np.zeros(len(lowest) - held, np.int64))
        self.index[slots] = index[new]

    def _make_room(self, count: int, dtype: type) -> None:
        """For `count` rows, at least in this precision."""
        there, dim = self._rows.shape
        wide = np.result_type(self._rows, dtype)
        if count > there or wide != self._rows.dtype:
            grown = np.zeros((max(there, min(self.size, max(count, 2 * there))), dim), wide)
            grown[: len(self)] = self.rows
            self._rows = grown

    def merge(self, other: Sketch) -> None:
        """Add what `other`, of the same size, has seen; it is left as it was."""
        self.add(torch.from_numpy(other.rows), other.index)
        self.seen += other.seen - len(other)

    def ordered(self) -> np.ndarray:
        """The rows in the order of their samples."""
        inside = (np.diff(self.index) >= 0).all()
        return self.rows if inside else self.rows[np.argsort(self.index, kind="stable")]

    def below(self, limit: np.uint64) -> tuple[np.ndarray, np.ndarray]:
        """(index, rows) of the ranks up to a limit."""
        kept = ranks(self.index) <= limit
        return self.index[kept], self.rows[kept]

    def arrays(self) -> dict[str, np.ndarray]:
        """All it knows, as arrays for a file."""
        return {"seen": np.array(self.seen), "index": self.index, "rows": self.rows}

    @classmethod
    def of_arrays(cls, size: int, arrays: dict[str, np.ndarray]) -> Sketch:
        """The inverse of `arrays`."""
        made = cls(arrays["rows"].shape[1], size)
        made.seen, made.index, made._rows = int(arrays["seen"]), arrays["index"], arrays["rows"]
        return made
