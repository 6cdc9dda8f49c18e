"""Groups of samples: that of sample i is a function of i alone, so that two runs on the same seeds have the same groups."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

GROUPS = 10


def group_of(index: np.ndarray, groups: int = GROUPS) -> np.ndarray:
    """The group of every sample of `index` (n,): every `groups` neighbours have one each, turned by a hash of their place.

    The turn matters: i mod groups would follow whatever is periodic in the samples, classes drawn in turn above all, and
    groups of one class each differ by their classes, not by chance.
    """
    index = np.asarray(index, np.int64)
    turn = (index // groups * 2654435761 & 0xFFFFFFFF) >> 16
    return (index + turn) % groups


def group_means(values: Tensor) -> tuple[float, ...]:
    """Mean of each group's values; nothing where there are fewer than two samples a group."""
    if len(values) < 2 * GROUPS:
        return ()
    of_each = torch.from_numpy(group_of(np.arange(len(values)))).to(values.device)
    return tuple(float(values[of_each == g].mean()) for g in range(GROUPS))
