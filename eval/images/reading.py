"""Blocks of an image set, read in this process or decoded in others, one thread each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fewstep.eval.feed.ahead import Batch
from fewstep.eval.feed.end_to_end import together
from fewstep.eval.feed.worker_count import worker_count
from fewstep.eval.images.decode import BadImage
from fewstep.eval.images.image_sets import Block, Images, ImageSet


def read(images: ImageSet, blocks: Iterable[range], workers: int = 0, pinned: bool = False) -> Iterator[Images]:
    """`images.read(blocks)`, by so many processes that read and decode; 0: this one.

    Sets that need no decoding use none. pinned: workers' images come in memory that a GPU copies from without waiting.
    """
    if workers and images.parallel:
        return images.watched(_blocks_of_workers(images, blocks, workers, pinned))
    return images.read(blocks)


def batches_of(
    images: ImageSet, blocks: Sequence[range], device: torch.device, workers: int | None = None
) -> Iterator[Batch]:
    """The blocks as batches for a network on that device; workers: that many processes, None as many as help it.

    What is wrong with images is told by `images.telling`, around this and all that is found out later.
    """
    whole = images.whole(blocks, device)
    if whole is not None:
        yield from whole
        return
    workers = automatic(images, blocks, device) if workers is None else workers
    for block, (indices, pictures) in zip(blocks, read(images, blocks, workers, device.type == "cuda"), strict=True):
        passed = tuple(sorted(set(block) - set(indices.tolist())))
        yield Batch(indices, together(pictures), passed=passed)


def automatic(images: ImageSet, blocks: Sequence[range], device: torch.device) -> int:
    """Workers for a network that has cores of its own, on sets that any process may open; none on a CPU."""
    if device.type == "cpu" or not (images.anywhere and blocks):
        return 0
    try:
        size = images.image(blocks[0][0]).numel()
    except (BadImage, ValueError):  # told in its turn
        size = 3 * 512 * 512
    return worker_count(sum(map(len, blocks)), size * max(map(len, blocks)))


@dataclass
class _Packed:
    """A block whose pixels are end to end in one tensor: each tensor that leaves a worker costs a file descriptor."""

    block: Block
    pixels: Tensor
    shapes: list[torch.Size]

    @classmethod
    def of(cls, found: Block) -> _Packed:
        empty = torch.empty(0, dtype=torch.uint8)
        pixels = torch.cat([empty, *(image.flatten() for image in found.images)])
        return cls(replace(found, images=[]), pixels, [image.shape for image in found.images])

    def pin_memory(self) -> _Packed:
        """Called by the loader, in a thread of its own."""
        return replace(self, pixels=self.pixels.pin_memory())

    def opened(self) -> Block:
        """The block with its images, which are views."""
        parts = self.pixels.split([shape.numel() for shape in self.shapes])
        return replace(self.block, images=[part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)])


def _blocks_of_workers(images: ImageSet, blocks: Iterable[range], workers: int, pinned: bool) -> Iterator[Block]:
    """The blocks, in their order; each worker has two under way."""
    sampler: Any = blocks  # of ranges instead of numbers: a block is what the loader takes for one sample
    own = torch.Generator().manual_seed(0)  # of the workers' seeds: without it the global one would be drawn from
    loader = DataLoader(
        _Blocks(images),
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        generator=own,
        pin_memory=pinned,
    )
    for packed in loader:
        if isinstance(packed, ValueError):
            raise packed
        yield packed.opened()


class _Blocks(Dataset):
    """Blocks by their ranges."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __getitem__(self, block: Any) -> _Packed | ValueError:
        try:
            return _Packed.of(self.images.block(self.images.fetch(block)))
        except ValueError as error:  # as it is, without the loader's traceback in its message
            return error


def _unchanged(packed: Any) -> Any:
    return packed
