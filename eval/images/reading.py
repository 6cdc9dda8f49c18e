"""Blocks of an image set, read in this process or decoded in others, one thread each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fewstep.eval.images.image_sets import Block, Images, ImageSet

Packed = tuple[Block, Tensor, list[torch.Size]]


def read(images: ImageSet, blocks: Iterable[range], workers: int = 0) -> Iterator[Images]:
    """`images.read(blocks)`, by so many processes that read and decode; 0: this one.

    Sets that need no decoding use none.
    """
    if workers and images.parallel:
        return images.watched(_blocks_of_workers(images, blocks, workers))
    return images.read(blocks)


def _blocks_of_workers(images: ImageSet, blocks: Iterable[range], workers: int) -> Iterator[Block]:
    """The blocks, in their order."""
    sampler: Any = blocks  # of ranges instead of numbers: a block is what the loader takes for one sample
    own = torch.Generator().manual_seed(0)  # of the workers' seeds: without it the global one would be drawn from
    loader = DataLoader(
        _Packing(images),
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        generator=own,
    )
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
