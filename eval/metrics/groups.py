"""Groups of samples: that of sample i is a function of i alone, so that two runs on the same seeds have the same groups."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..statistics import group_of

GROUPS = 10


def group_means(values: Tensor) -> tuple[float, ...]:
    """Mean of each group's values; nothing where there are fewer than two samples a group."""
    if len(values) < 2 * GROUPS:
        return ()
    of_each = torch.from_numpy(group_of(np.arange(len(values)), GROUPS)).to(values.device)
    return tuple(float(values[of_each == g].mean()) for g in range(GROUPS))
