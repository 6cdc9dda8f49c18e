"""Groups of samples: sample i is in group i mod GROUPS, so that two runs on the same seeds have the same groups."""

from __future__ import annotations

from torch import Tensor

GROUPS = 10


def group_means(values: Tensor) -> tuple[float, ...]:
    """Mean of each group's values; nothing where there are fewer than two samples a group."""
    if len(values) < 2 * GROUPS:
        return ()
    return tuple(float(values[g::GROUPS].mean()) for g in range(GROUPS))
