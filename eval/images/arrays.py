"""Images in memory, in Datasets and from iterators."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.checks import unknown
from fewstep.eval.feed.ahead import Batch
from fewstep.eval.feed.quantising import batch_of_levels
from fewstep.eval.images.decode import (
    LIMIT,
    BadImage,
    as_tensor,
    checked_range,
    decode_file,
    from_array,
    from_opened,
    side_of_channels,
)
from fewstep.eval.images.image_sets import Fetched, Images, ImageSet, digest

LAYOUTS = ("NCHW", "NHWC", "NHW", "CHW", "HWC")


class Array(ImageSet):
    """A tensor, array or memory-mapped file (N, C, H, W), (N, H, W, C) or (N, H, W).

    Args:
        array: uint8, or floats, which need `range`.
        name: in words.
        range: (0, 1), (-1, 1) or (0, 255).
        layout: "NCHW", "NHWC" or "NHW" where the shape leaves it open.
        made_of: what the fingerprint is taken of; of up to 1024 of the images where nothing is given.
    """

    def __init__(
        self,
        array: Any,
        name: str | None = None,
        range: Any = None,
        layout: str | None = None,
        skip_bad: bool = False,
        made_of: Any = None,
    ) -> None:
        shape = tuple(array.shape)
        name = name or f"an array {shape}"
        if len(shape) not in (3, 4) or 0 in shape[1:]:
            raise ValueError(f"{name} has the shape {shape}; images are (N, C, H, W), (N, H, W, C) or (N, H, W)")
        super().__init__(name, shape[0], skip_bad=skip_bad)
        try:
            empty = as_tensor(array[:0] if isinstance(array, Tensor) else np.empty(0, array.dtype))
            from_array(empty.new_zeros(1, 1), range or (0, 1))
            self.layout = _layout_of_batch(shape, layout)
        except BadImage as error:
            raise ValueError(f"{name} {error}") from error
        if empty.is_floating_point():
            checked_range(range, empty.dtype)
        self.array, self.range, self._made_of = array, range, made_of

    def image(self, index: int) -> Tensor:
        return from_array(self.array[index], self.range, self.layout)

    def whole(self, blocks: Iterable[range], device: torch.device) -> Iterator[Batch] | None:
        """Slices as they are, which become 8 bits on the device."""
        if device.type == "cpu":
            return None
        axis = 3 if self.layout == "HWC" else 1

        def make(raw: Tensor) -> tuple[Tensor, Tensor]:
            return batch_of_levels(raw, self.range, axis)

        return (Batch(np.arange(b.start, b.stop), [self._slice(b)], make) for b in blocks)

    def _slice(self, block: range) -> Tensor:
        return as_tensor(self.array[block.start : block.stop]).detach()

    @property
    def fingerprint(self) -> str:
        made_of = self._made_of
        if made_of is None:
            some = np.linspace(0, len(self.array) - 1, min(len(self.array), 1024)).astype(int)
            made_of = digest(*(as_tensor(self.array[int(i)]).cpu().float().numpy().tobytes() for i in some))
        return digest(tuple(self.array.shape), str(self.array.dtype), self.range, self.layout, made_of)


class Dataset(ImageSet):
    """Anything with len and getitem: an item is an image, a tuple that starts with one, or a dict with one under `key`."""

    parallel = True

    def __init__(
        self,
        source: Any,
        key: str = "image",
        range: Any = None,
        layout: str | None = None,
        skip_bad: bool = False,
        *,
        limit: int = LIMIT,
    ) -> None:
        super().__init__(f"a {type(source).__name__} of {len(source)}", len(source), skip_bad=skip_bad)
        self.source, self.key, self.how, self.limit = source, key, (range, _of_one(layout)), limit

    @property
    def labels(self) -> Any:
        """What torchvision's Datasets call their targets, where there is one an image."""
        targets = getattr(self.source, "targets", None)
        fits = np.ndim(targets) == 1 and len(targets) == len(self.source) if targets is not None else False
        return np.asarray(targets).astype(str) if fits else None

    def image(self, index: int) -> Tensor:
        try:
            found = list(_images_in(self.source[index], self.key))
        except (OSError, SyntaxError, EOFError, MemoryError) as error:
            raise BadImage(f"cannot be read ({str(error) or type(error).__name__})") from error
        if len(found) != 1:
            raise ValueError(f"{self.label(index)} is {len(found)} images; a Dataset's item is one")
        return _converted(found[0], *self.how, self.limit)

    @property
    def fingerprint(self) -> str:
        some = np.linspace(0, len(self.source) - 1, min(len(self.source), 64)).astype(int)
        seen = (x for i in some for _, x in self.fetch(range(i, i + 1)))
        made_of = (str(x) if isinstance(x, BadImage) else x.numpy().tobytes() for x in seen)
        return digest(self.name, str(self.how), *made_of)


class Stream(ImageSet):
    """An iterable of images or batches of unknown length, read from end to end; an iterator only once.

    An item is an image, an array (B, C, H, W) or (B, H, W, C), a list of images, a tuple or list that starts with one of
    these (what follows are labels), or a dict with one under `key`.
    """

    def __init__(
        self,
        source: Iterable[Any],
        key: str = "image",
        range: Any = None,
        layout: str | None = None,
        skip_bad: bool = False,
        *,
        limit: int = LIMIT,
    ) -> None:
        super().__init__(f"a {type(source).__name__}", skip_bad=skip_bad)
        self.source, self.key, self.how, self.limit = source, key, (range, _of_one(layout)), limit
        self.begun = False

    def read(self, blocks: Iterable[range]) -> Iterator[Images]:
        raise ValueError(
            f"{self.name} can only be read from end to end, by one process; save its images to a folder first"
        )

    def stream(self, size: int) -> Iterator[Images]:
        """All images, `size` at a time."""
        if self.begun and iter(self.source) is self.source:
            raise ValueError(f"{self.name} has been read; an iterator gives its images once")
        self.begun = True
        numbered = iter(enumerate(self._converted()))
        return self.watched(self.block(chunk) for chunk in _chunks(numbered, size, self.name))

    def _converted(self) -> Iterator[Tensor | BadImage]:
        for item in self.source:
            for image in _images_in(item, self.key):
                try:
                    yield _converted(image, *self.how, self.limit)
                except BadImage as error:
                    yield error

    @property
    def fingerprint(self) -> str:
        """Never equal to another: what an iterator will give cannot be known."""
        return uuid.uuid4().hex[:16]


def _chunks(numbered: Any, size: int, name: str) -> Iterator[Fetched]:
    chunk = list(islice(numbered, size))
    if not chunk:
        raise ValueError(f"{name} gave no images")
    while chunk:
        yield chunk
        chunk = list(islice(numbered, size))


def _images_in(item: Any, key: str) -> Iterator[Any]:
    """The single images in an item of a Dataset or iterator."""
    if isinstance(item, Mapping):
        if key not in item:
            raise unknown("entry of the items", key, map(str, item))
        yield from _images_in(item[key], key)
    elif isinstance(item, (tuple, list)):
        several = all(_looks_like_one(part) for part in item)
        for part in item if several else item[:1]:
            yield from _images_in(part, key)
    elif getattr(item, "ndim", 0) == 4:
        yield from item
    else:
        yield item


def _looks_like_one(part: Any) -> bool:
    return getattr(part, "ndim", 0) in (2, 3) or hasattr(part, "getbands") or isinstance(part, os.PathLike)


def _converted(image: Any, value_range: Any, layout: str | None, limit: int) -> Tensor:
    """A PIL image, array, tensor or path -> uint8 (3, H, W)."""
    if hasattr(image, "getbands"):
        return from_opened(image, limit)
    if isinstance(image, (Tensor, np.ndarray)):
        return from_array(image, value_range, layout)
    if isinstance(image, (str, os.PathLike)):
        return decode_file(image, value_range, limit)
    raise ValueError(f"{type(image).__name__} is no image; give PIL images, arrays or tensors")


def _layout_of_batch(shape: tuple[int, ...], layout: str | None) -> str | None:
    """Layout of one image of a batch; None for (H, W)."""
    one = _of_one(layout)
    if len(shape) == 4:
        return one or side_of_channels(shape[1:])
    if one is None and (shape[0] <= 4 or shape[-1] <= 4):
        raise BadImage(
            f"has the shape {shape}: (N, H, W), or one image with channels? Say layout='NHW', or add the axis"
        )
    return None


def _of_one(layout: str | None) -> str | None:
    """ "NCHW" -> "CHW"."""
    if layout is not None and layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    return layout and layout.removeprefix("N")
