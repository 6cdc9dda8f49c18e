"""Matrices over channels: what a feature gains from how the past differed, and from what has changed in what comes in.

    f = F_1 + sum_j M_j (F_j - F_1) + sum_j N_j (X - X_j)

at every place of a picture or token of a sequence, with X what comes into the group now, X_j what came in with F_j, where these
have the features' shape. Nothing is added where nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def changes(
    features: Sequence[Tensor], inputs: Sequence[Tensor], x: Tensor | None, window: int
) -> tuple[list[int], Tensor]:
    """Which of the matrices M_2 .. M_W, N_1 .. N_W act, and on what: (B, ..., matrices times channels), float32 at least."""
    wide = torch.promote_types(features[0].dtype, torch.float32)
    newest = features[0].to(wide)
    slots = list(range(len(features) - 1))
    found = [feature.to(wide) - newest for feature in features[1:]]
    if x is not None:
        slots += [window - 1 + j for j in range(len(inputs))]
        found += [x.to(wide) - other.to(wide) for other in inputs]
    if not found:
        return slots, channels_last(newest)[..., :0]
    return slots, torch.cat([channels_last(each) for each in found], -1)


def gained(maps: Tensor, slots: Sequence[int], change: Tensor, like: Tensor) -> Tensor:
    """The sums above beside F_1, in the shape of `like`. maps: (matrices, channels, channels), each applied from the right."""
    added = change @ maps[list(slots)].flatten(0, 1)
    return added.movedim(-1, 1) if like.ndim > 3 else added


def channels_last(feature: Tensor) -> Tensor:
    """Of pictures (B, C, ...) and sequences (B, N, C)."""
    return feature.movedim(1, -1) if feature.ndim > 3 else feature
