"""Images of one size beside each other in memory are a batch already: no copy is made of them to make one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def together(images: Sequence[Tensor]) -> list[Tensor]:
    """Neighbours of one shape (3, H, W) as batches (n, 3, H, W), in their order; views where the memory allows it."""
    runs: list[list[Tensor]] = []
    for image in images:
        if runs and runs[-1][0].shape == image.shape and runs[-1][0].device == image.device:
            runs[-1].append(image)
        else:
            runs.append([image])
    return [_one(run) for run in runs]


def _one(run: list[Tensor]) -> Tensor:
    first = run[0]
    if not _follow(run):
        return torch.stack(run)
    return first.as_strided((len(run), *first.shape), (first.numel(), *first.stride()), first.storage_offset())


def _follow(run: list[Tensor]) -> bool:
    """Whether each begins where the one before it ends, in one memory."""
    first = run[0]
    place = first.untyped_storage()._cdata
    return all(
        image.is_contiguous()
        and image.dtype == first.dtype
        and image.untyped_storage()._cdata == place
        and image.storage_offset() == first.storage_offset() + k * first.numel()
        for k, image in enumerate(run)
    )
