"""A virtual Brownian tree: W(lam) of one sample at any point, without remembering where it was asked before.

On [-RANGE, RANGE] the path is fixed by W(-RANGE) = 0, W(RANGE) and the midpoints of ever smaller halves,

    W((a + b) / 2) = (W(a) + W(b)) / 2 + sqrt(b - a) / 2 * z(level, index),

each z a function of the seed and of the midpoint's place alone. Between two leaves, a distance LEAF apart, the bridge is
one more Gaussian of the leaf: W has its exact law at every point, and increments are independent across leaves.

Reference: Scalable Gradients for Stochastic Differential Equations; Li, Wong, Chen, Duvenaud; 2020; arXiv:2001.01328.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RANGE, DEPTH = 16.0, 17  # lam from -16 to 16; leaves of 2^-12
LEAF = 2 * RANGE / 2**DEPTH
Array = NDArray[np.float32]
Known = dict[tuple[int, int], Array]


def unit_normal(seed: int, place: tuple[int, int, int], shape: Sequence[int]) -> Array:
    """Unit Gaussians of `shape`, float32, from one Philox counter block: a function of (seed, place) alone."""
    philox = np.random.Philox(key=seed % 2**64, counter=[0, *(p % 2**64 for p in place)])
    return np.random.Generator(philox).standard_normal(tuple(shape), dtype=np.float32)


def unit_uniform(seed: int, place: tuple[int, int, int]) -> float:
    """A uniform in (0, 1), a function of (seed, place) alone."""
    philox = np.random.Philox(key=seed % 2**64, counter=[0, *(p % 2**64 for p in place)])
    return np.random.Generator(philox).random() + 2.0**-54


class BrownianPaths:
    """The Brownian paths 0, 1, 2, ... of one seed; of each, the midpoints last used and the ends of the last increment."""

    def __init__(self, seed: int):
        self.seed = seed
        self._known: dict[tuple[int, tuple[int, ...]], Known] = {}
        self._ends: dict[tuple[int, tuple[int, ...]], dict[float, Array]] = {}

    def increment(self, start: float, end: float, shape: Sequence[int], path: int = 0) -> Array:
        """(W(end) - W(start)) / sqrt(|end - start|), a unit Gaussian of `shape` in float32.

        Points beyond +-RANGE, where no noise matters, are taken at +-RANGE.
        """
        start, end = (float(np.clip(v, -RANGE, RANGE)) for v in (start, end))
        if start == end:
            return self._z(path, (DEPTH + 2, round((start + RANGE) / LEAF)), shape)
        before = self._ends.get((path, tuple(shape)), {})  # steps follow each other: one end is known
        W = {lam: before[lam] if lam in before else self.at(lam, shape, path) for lam in (start, end)}
        self._ends[path, tuple(shape)] = W
        return np.asarray((W[end] - W[start]) / np.float32(abs(end - start) ** 0.5))

    def at(self, lam: float, shape: Sequence[int], path: int = 0) -> Array:
        """W(lam), float32."""
        shape = tuple(shape)
        before: Known = self._known.get((path, shape), {})
        now: Known = {}
        place = (lam + RANGE) / (2 * RANGE)  # in [0, 1]
        low: Array = np.zeros(shape, np.float32)
        high: Array = self._z(path, (0, 0), shape) * np.float32((2 * RANGE) ** 0.5)
        for level in range(1, DEPTH + 1):
            index = min(int(place * 2 ** (level - 1)), 2 ** (level - 1) - 1)
            key = (level, index)
            middle = before.get(key)
            if middle is None:
                half = np.float32(0.5 * (2 * RANGE / 2 ** (level - 1)) ** 0.5)
                middle = np.asarray(np.float32(0.5) * (low + high) + half * self._z(path, key, shape), np.float32)
            now[key] = middle
            low, high = (low, middle) if place * 2**level < 2 * index + 1 else (middle, high)
        self._known[path, shape] = now
        index = min(int(place * 2**DEPTH), 2**DEPTH - 1)
        u = place * 2**DEPTH - index  # in [0, 1] within the leaf
        bridge = np.float32((u * (1 - u) * LEAF) ** 0.5) * self._z(path, (DEPTH + 1, index), shape)
        return np.asarray(low + np.float32(u) * (high - low) + bridge)

    def _z(self, path: int, key: tuple[int, int], shape: Sequence[int]) -> Array:
        return unit_normal(self.seed, (1 + path, *key), shape)
