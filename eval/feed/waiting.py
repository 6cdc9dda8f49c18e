"""Features that wait on their device until a chunk is whole: what the host has to know, it asks once a chunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHUNK = 4096  # rows that wait; at 2048 dimensions 34 MB


@dataclass(frozen=True)
class Doubt:
    """What is not known yet of a batch of images.

    Attributes:
        images: their indices (B,).
        codes: a code each (B,), on the device; see quantising.py.
        judge: (indices, codes) -> which of them can be used, or a ValueError by name.
    """

    images: np.ndarray
    codes: Tensor
    judge: Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Batch:
    """Features {part: (B, d)} of the samples of these numbers (B,)."""

    numbers: np.ndarray
    features: dict[str, Tensor]
    doubt: Doubt | None = None


class Waiting:
    """Batches of features, in the order in which they came."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    @property
    def count(self) -> int:
        return sum(len(batch.numbers) for batch in self.batches)

    @property
    def full(self) -> bool:
        """Whether it is time to take them: at once where they are on the CPU, for asking costs nothing there."""
        some = next((rows for batch in self.batches for rows in batch.features.values()), None)
        return some is not None and (some.device.type == "cpu" or self.count >= CHUNK)

    def add(self, numbers: np.ndarray, features: Mapping[str, Any], doubt: Doubt | None = None) -> None:
        rows = {part: torch.as_tensor(x).detach() for part, x in features.items()}
        self.batches.append(Batch(np.asarray(numbers, np.int64), rows, doubt))

    def taken(self) -> tuple[np.ndarray, dict[str, Tensor], np.ndarray]:
        """All of them as one, of which none is left: (numbers, features, numbers of images that cannot be used).

        Raises:
            ValueError: an image that cannot be used, where that is not allowed.
        """
        batches, self.batches = self.batches, []
        numbers = np.concatenate([batch.numbers for batch in batches])
        parts = batches[0].features
        features = {part: torch.cat([batch.features[part] for batch in batches]) for part in parts}
        good = _judged(batches)
        if good.all():
            return numbers, features, np.zeros(0, np.int64)
        rows = torch.from_numpy(np.flatnonzero(good))
        return numbers[good], {part: x[rows.to(x.device)] for part, x in features.items()}, numbers[~good]


def _judged(batches: list[Batch]) -> np.ndarray:
    """Which samples can be used; all codes are read together."""
    doubts = [batch.doubt for batch in batches if batch.doubt is not None]
    if not doubts:
        return np.ones(sum(len(batch.numbers) for batch in batches), bool)
    codes = torch.cat([doubt.codes for doubt in doubts]).cpu().numpy()
    told = iter(np.split(codes, np.cumsum([len(doubt.images) for doubt in doubts])[:-1]))
    return np.concatenate(
        [
            np.ones(len(batch.numbers), bool)
            if batch.doubt is None
            else batch.doubt.judge(batch.doubt.images, next(told))
            for batch in batches
        ]
    )
