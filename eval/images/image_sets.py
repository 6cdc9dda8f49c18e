"""Sets of images: what evaluation reads, block by block, as uint8 tensors that may differ in size.

    ImageSet.read(blocks) -> (indices, [uint8 (3, H, W), ...]) of each block

A set knows how to make image i; reading cuts it into blocks and keeps count of what was passed over (reading.py does the
same in workers). Sources of unknown length can only be read from end to end: `stream`. Sets whose images lie in one tensor, or
are made on the network's device, give whole blocks of it: `whole`; what is wrong with one is found there and told later.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.eval.feed.ahead import Batch
from fewstep.eval.feed.quantising import BLACK, UNUSABLE
from fewstep.eval.images.decode import BadImage

Images = tuple[np.ndarray, list[Tensor]]
Fetched = Iterable[tuple[int, Tensor | BadImage]]


@dataclass
class Block:
    """What came of a range of images: the usable ones with their indices, and what is wrong with the others.

    black: all over. first: of a file that holds several, an animation or pages.
    """

    indices: list[int] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    bad: dict[int, tuple[str, str]] = field(default_factory=dict)
    black: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)


class ImageSet(ABC):
    """Base of all sets; a subclass defines `image`, or `fetch` where images come many at a time, and `fingerprint`.

    Attributes:
        name: what it is, in words.
        count: number of images; None where only reading to the end tells.
        lossy: whether any image went through JPEG or the like; None where that cannot be known.
        skip_bad: pass over images that cannot be used, and count them.
    """

    parallel = False  # whether workers make reading faster
    anywhere = False  # whether any process may read it, unasked: files, not what somebody's code makes

    def __init__(self, name: str, count: int | None = None, lossy: bool | None = None, skip_bad: bool = False) -> None:
        if count == 0:
            raise ValueError(f"{name} holds no images")
        self.name, self.count, self.lossy, self.skip_bad = name, count, lossy, skip_bad
        self._bad: dict[int, tuple[str, str]] = {}
        self._black: set[int] = set()
        self._counted: set[int] = set()
        self._told_later = False
        self._first: set[int] = set()  # put there by `image`, in whichever process it runs

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Short hash of what the images are made from; only a set with an equal one may continue this one's work."""

    @property
    def content(self) -> str:
        """The same for the same images on another machine: by it processes know that they were given the same."""
        return self.fingerprint

    @property
    def labels(self) -> np.ndarray | None:
        """The class of every image, a word each; None where none is known."""
        return None

    def answers(self) -> np.ndarray | None:
        """Numbers that tell a network that draws the images from another of the same weights; None where there is none."""
        return None

    def image(self, index: int) -> Tensor:
        """uint8 (3, H, W) of one image; BadImage where it cannot be used. This and `fetch` are each made of the other."""
        ((_, found),) = self.fetch(range(index, index + 1))
        if isinstance(found, BadImage):
            raise found
        return found

    def label(self, index: int) -> str:
        """What messages call image `index`."""
        return f"image {index} of {self.name}"

    def fetch(self, block: range) -> Fetched:
        """The images of a block by index."""
        for i in block:
            try:
                yield i, self.image(i)
            except BadImage as error:
                yield i, error

    def block(self, fetched: Fetched) -> Block:
        """Images sorted into good, bad and black; without `skip_bad` the first bad one ends it."""
        found = Block()
        for i, image in fetched:
            if isinstance(image, BadImage):
                found.bad[i] = (self.label(i), str(image))
                if not self.skip_bad:
                    break
                continue
            found.indices.append(i)
            found.images.append(image)
            if not image.any():
                found.black.append(i)
            if i in self._first:
                found.first.append(i)
        return found

    def read(self, blocks: Iterable[range]) -> Iterator[Images]:
        """(indices (n,), n images) of each block, in the order of the blocks; n is smaller where images were skipped.

        Raises:
            ValueError: an image that cannot be used, by name, unless `skip_bad`.
        """
        return self.watched(self.block(self.fetch(block)) for block in blocks)

    def stream(self, size: int) -> Iterator[Images]:
        """All images from end to end, `size` at a time."""
        n = self.count or 0
        return self.read(range(k, min(k + size, n)) for k in range(0, n, size))

    def whole(self, blocks: Iterable[range], device: torch.device) -> Iterator[Batch] | None:
        """The blocks as batches for that device, without a look at single images; None where they must be looked at here.

        What is wrong with them is for `usable` to say, from the codes.
        """
        return None

    def usable(self, indices: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Which of these images can be used. codes: what was found of each on a device, see quantising.py.

        Raises:
            ValueError: one that cannot, by name, unless `skip_bad`.
        """
        found = Block(black=indices[codes == BLACK].tolist())
        for i in indices[codes == UNUSABLE].tolist():
            try:
                self.image(i)
                reason = "cannot be used"
            except BadImage as error:  # in its own words
                reason = str(error)
            found.bad[i] = (self.label(i), reason)
        self._counted_in(found)
        return codes != UNUSABLE

    def watched(self, blocks: Iterable[Block]) -> Iterator[Images]:
        """The images of the blocks; a bad one raises, or is counted and warned of at the end."""
        with self.telling():
            for block in blocks:
                self._counted_in(block)
                yield np.array(block.indices, np.int64), block.images

    def _counted_in(self, block: Block) -> None:
        self._bad.update(block.bad)
        self._black.update(block.black)
        self._counted.update(block.first)
        if block.bad and not self.skip_bad:
            label, reason = next(iter(block.bad.values()))
            raise ValueError(f"{label} {reason}. To pass over and count such images: skip_bad=True (--skip-bad)")

    @contextmanager
    def telling(self) -> Iterator[None]:
        """What is wrong with images that are read in this block is told in warnings at its end, or of the one it is within."""
        if self._told_later:
            yield
            return
        self._told_later = True
        try:
            yield from self._telling()
        finally:
            self._told_later = False

    def _telling(self) -> Iterator[None]:
        skipped, black, counted = len(self._bad), len(self._black), set(self._counted)
        yield
        if len(self._bad) > skipped:
            label, reason = self.skipped[0]
            warnings.warn(f"{self.name}: images passed over: {len(self._bad)}. {label} {reason}", stacklevel=2)
        if len(self._black) > black:
            warnings.warn(
                f"{self.name}: images that are black all over: {len(self._black)}. A safety checker does that, or NaN in "
                "a decoder of half precision",
                stacklevel=2,
            )

        if new := sorted(self._counted - counted):
            warnings.warn(
                f"{self.name}: files that hold an animation or pages, of which the first was taken: {len(self._counted)}, "
                f"{self.label(new[0])} among them",
                stacklevel=2,
            )

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of every image passed over so far, in order."""
        return [self._bad[i] for i in sorted(self._bad)]

    @property
    def black(self) -> list[int]:
        """Indices of the images read so far that are black all over."""
        return sorted(self._black)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}>"


def digest(*parts: Any) -> str:
    """16 digits that tell these apart: bytes as they are, all else by its JSON, or its words where it has none."""
    made = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, default=str, sort_keys=True).encode()
        made.update(len(data).to_bytes(8, "little") + data)
    return made.hexdigest()[:16]
