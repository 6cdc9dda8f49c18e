"""Blocks of an image set decoded in other processes, one thread each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fewstep.eval.images.base import Block, ImageSet

Packed = tuple[Block, Tensor, list[torch.Size]]


def blocks_of_workers(images: ImageSet, blocks: Iterable[range], workers: int) -> Iterator[Block]:
    """The blocks, in their order."""
    sampler: Any = blocks  # of ranges instead of numbers: a block is what the loader takes for one sample
    loader = DataLoader(_Packing(images), sampler=sampler, batch_size=None, num_workers=workers, collate_fn=_unchanged)
    for packed in loader:
        if isinstance(packed, ValueError):
            raise packed
        block, pixels, shapes = packed
        parts = pixels.split([shape.numel() for shape in shapes])
        yield replace(block, images=[part.view(shape) for part, shape in zip(parts, shapes, strict=True)])


class _Packing(Dataset):
    """A block's pixels end to end: each tensor that leaves a worker costs a file descriptor."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __getitem__(self, block: Any) -> Packed | ValueError:
        try:
            found = self.images.block(self.images.fetch(block))
        except ValueError as error:  # as it is, without the loader's traceback in its message
            return error
        pixels = torch.cat([torch.empty(0, dtype=torch.uint8), *(image.flatten() for image in found.images)])
        return replace(found, images=[]), pixels, [image.shape for image in found.images]


def _unchanged(packed: Any) -> Any:
    return packed
