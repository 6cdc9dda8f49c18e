"""What a Meter holds of one side: features of the images so far, and images that wait until a batch is whole.

    number of the k-th image = epoch 2^40 + k size + rank       with images of its own in each of `size` processes, else + k

A batch is as large as one of `evaluate`, so that however the images come the network is shown the same ones together. Reading
(a value, a state) changes nothing: the waiting images are looked at apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.eval.extractors.base import Extractor
from fewstep.eval.feed.ahead import ahead
from fewstep.eval.feed.quantising import BLACK, UNUSABLE
from fewstep.eval.feed.waiting import Doubt
from fewstep.eval.images.image_sets import ImageSet, digest
from fewstep.eval.images.reading import read
from fewstep.eval.passes.collect import blocks_of, dimension, extracted
from fewstep.eval.passes.processes import Processes
from fewstep.eval.passes.shards import Shard, Wanted

EPOCH = 1 << 40
Parts = tuple[tuple[str, ...], tuple[str, ...]]


class Held:
    """Features and waiting images of one side, in this process.

    Args:
        parts: of which moments, and of which all vectors are kept.
        batch_size: images that go through the network together.

    Attributes:
        given: images so far, of all processes that share them. print: what tells them from others, where they are shared.
        lossy: whether any of them was; None: not known.
        skip_bad: images that cannot be used are passed over.
    """

    def __init__(self, parts: Parts, processes: Processes, batch_size: int) -> None:
        self.parts, self.processes, self.batch_size = parts, processes, batch_size
        self.shard: Shard | None = None
        self.numbers: list[int] = []
        self.images: list[Tensor] = []
        self.codes: list[Tensor | None] = []  # of those that wait on a device, see quantising.py
        self.skip_bad = False
        self.given = self.epoch = 0
        self.print = ""
        self.lossy: bool | None = False

    @property
    def n(self) -> int:
        """Images and features of this process."""
        return len(self.images) + (0 if self.shard is None else self.shard.count)

    @property
    def dims(self) -> dict[str, int]:
        """Dimension of every part, once it is known."""
        wanted = None if self.shard is None else self.shard.wanted
        return {} if wanted is None else {**wanted.statistics, **wanted.rows}

    def numbered(self, count: int, index: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """The next `count` images: their numbers, and the places of those that this process looks at.

        index: numbers of the user's own. ValueError: other than `count` of them.
        """
        processes, places = self.processes, np.arange(count)
        ordinals = self.given + places
        numbers = self.epoch * EPOCH + processes.numbers(ordinals)
        if index is not None:
            numbers = np.asarray(index, np.int64)
            if numbers.shape != (count,) or (numbers < 0).any():
                raise ValueError(f"`index` numbers the images, {count} of them, from 0 on; got shape {numbers.shape}")
        self.given += count
        if processes.share == "shared":
            places = places[ordinals % processes.size == processes.rank]
        return numbers, places

    def of_dims(self, dims: Mapping[str, int]) -> Shard:
        """A shard of these parts."""
        moments, rows = self.parts
        return Shard(Wanted({part: dims[part] for part in moments}, {part: dims[part] for part in rows}))

    def add(self, features: Mapping[str, Tensor], numbers: np.ndarray) -> None:
        """Features (B, d) of every part that is needed. ValueError: one is missing, or has another dimension."""
        needed = {*self.parts[0], *self.parts[1]}
        if missing := sorted(needed - set(features)):
            raise ValueError(
                f"the metrics need features of {', '.join(sorted(needed))}, and {', '.join(missing)} are missing: give them "
                "by their parts, {'main': ..., 'logits': ...}, or the images"
            )
        dims = {part: features[part].shape[1] for part in needed}
        if self.shard is None:
            self.shard = self.of_dims(dims)
        for part, known in self.dims.items():
            if dims[part] != known:
                raise ValueError(
                    f"features of {dims[part]} numbers were given as {part}, and those before have {known}: give all of one "
                    "extractor and layer"
                )
        self.shard.add(numbers, {part: features[part] for part in needed})

    def read(self, images: ImageSet, numbers: np.ndarray, places: np.ndarray, extractor: Extractor) -> None:
        """The images at these places, each with its number; whole batches of them where they go to a device."""
        blocks = blocks_of(places, self.batch_size)
        whole = images.whole(blocks, extractor.device)
        if whole is None:
            for found, pictures in read(images, blocks):
                self.wait(numbers[found].tolist(), pictures, extractor)
            return
        self.skip_bad = self.skip_bad or images.skip_bad
        for batch in ahead(whole, extractor.device):
            self.wait(numbers[batch.indices].tolist(), list(batch.pictures), extractor, batch.codes)

    def wait(
        self, numbers: Sequence[int], images: Sequence[Tensor], extractor: Extractor, codes: Tensor | None = None
    ) -> None:
        """Images that are looked at when there are enough for a batch; codes: what is wrong with each, on the device."""
        self.numbers += [int(number) for number in numbers]
        self.images += images
        self.codes += [None] * len(images) if codes is None else list(codes)
        if self.shard is None:
            self.shard = self.of_dims({part: dimension(extractor, part) for part in {*self.parts[0], *self.parts[1]}})
        while len(self.images) >= self.batch_size:
            self._look(self.shard, self.batch_size, extractor)
            for waiting in (self.numbers, self.images, self.codes):
                del waiting[: self.batch_size]
        rest = len(self.images) - min(len(images), len(self.images))
        self.images[rest:] = [image.clone() for image in self.images[rest:]]  # whoever gave them may write there again

    def _look(self, shard: Shard, count: int, extractor: Extractor) -> None:
        numbers = np.array(self.numbers[:count], np.int64)
        extracted(extractor, shard, numbers, self.images[:count], doubt=self._doubt(numbers))

    def _doubt(self, numbers: np.ndarray) -> Doubt | None:
        """What nobody has read yet of the images that have waited longest."""
        codes = self.codes[: len(numbers)]
        known = next((code for code in codes if code is not None), None)
        if known is None:
            return None
        each = [torch.zeros_like(known) if code is None else code for code in codes]
        return Doubt(numbers, torch.stack(each), self._usable)

    def _usable(self, numbers: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Which of these images can be used; ValueError for one that cannot, unless such are passed over."""
        bad, black = numbers[codes == UNUSABLE], numbers[codes == BLACK]
        if len(bad) and not self.skip_bad:
            raise ValueError(
                f"image {bad[0]} of a Meter is not finite, has more than 1 % of its values outside the range that was given, "
                "or is transparent in places. To pass over such images: skip_bad=True"
            )
        if len(bad):
            warnings.warn(f"a Meter: images passed over: {len(bad)}, number {bad[0]} among them", stacklevel=2)
        if len(black):
            warnings.warn(f"a Meter: images that are black all over: {len(black)}", stacklevel=2)
        return codes != UNUSABLE

    def _settle(self) -> None:
        """Read what is not known of the images that wait, and let go of those that cannot be used."""
        doubt = self._doubt(np.array(self.numbers, np.int64))
        if doubt is not None:
            usable = self._usable(doubt.images, doubt.codes.cpu().numpy())
            self.numbers = list(compress(self.numbers, usable))
            self.images = list(compress(self.images, usable))
            self.codes = [None] * len(self.images)

    def rest(self, extractor: Extractor | None) -> list[Shard]:
        """What waits, looked at, as a shard by itself."""
        if not self.images:
            return []
        assert self.shard is not None and extractor is not None
        apart = Shard(self.shard.wanted)
        self._look(apart, len(self.images), extractor)
        return [apart]

    def share(self, content: Any) -> None:
        """Remember what the processes were given that share their images."""
        self.print = digest(self.print, content)

    def merge(self, other: Held, extractor: Extractor | None) -> dict[int, int] | None:
        """Add what another one has seen, which is left as it was; numbers that both have are given anew, in their order.

        Returns the new numbers of its images by the old ones, None where these stay.
        """
        shards = [*([] if other.shard is None else [other.shard.snapshot()]), *other.rest(extractor)]
        mine = np.concatenate([self.numbers, *([] if self.shard is None else [self.shard.indices])]).astype(np.int64)
        theirs = np.concatenate([np.zeros(0, np.int64), *(shard.indices for shard in shards)])
        self.epoch = 1 + max([self.epoch, other.epoch, *(int(n) // EPOCH for n in (*mine, *theirs))])
        self.given, self.lossy = 0, self.lossy if self.lossy == other.lossy else self.lossy or other.lossy or None
        self.print = digest(self.print, other.print)
        anew: dict[int, int] | None = None
        if len(np.intersect1d(mine, theirs)):
            numbers, _ = self.numbered(len(theirs))
            anew = dict(zip(np.sort(theirs).tolist(), numbers.tolist(), strict=True))
        for shard in shards:
            if self.shard is None:
                self.shard = self.of_dims({**shard.wanted.statistics, **shard.wanted.rows})
            self.shard.merge(shard, anew)
        return anew

    def state(self) -> dict[str, Any]:
        """All of it, as tensors, numbers and words."""
        self._settle()
        arrays = {} if self.shard is None else self.shard.everything()
        processes = self.processes
        return {
            "given": self.given,
            "epoch": self.epoch,
            "print": self.print,
            "lossy": self.lossy,
            "place": [processes.share, processes.rank, processes.size],
            "arrays": {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()},
            "numbers": torch.tensor(self.numbers, dtype=torch.int64),
            "images": [image.clone() for image in self.images],
        }

    def take(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`; in another place among the processes numbers go on where nobody has any."""
        arrays = {name: tensor.numpy() for name, tensor in state["arrays"].items()}
        self.shard = Shard.of_everything(arrays, *self.parts) if arrays else None
        self.given, self.epoch = int(state["given"]), int(state["epoch"])
        self.print, self.lossy = str(state["print"]), state["lossy"]
        self.numbers, self.images = state["numbers"].tolist(), list(state["images"])
        self.codes = [None] * len(self.images)
        if list(state["place"]) != [self.processes.share, self.processes.rank, self.processes.size]:
            self.given, self.epoch = 0, self.epoch + 1


def same_dims(dims: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The dimensions that all processes with any images have. ValueError: they differ."""
    known = [one for one in dims if one]
    for one in known:
        if one != known[0]:
            raise ValueError(f"the processes have features of different dimensions, {known[0]} and {one}")
    return dict(known[0]) if known else {}


def require_state(state: Mapping[str, Any], names: Sequence[str], question: str) -> None:
    """ValueError for what is no state of a Meter, or is one of another question."""
    if missing := [name for name in names if name not in state]:
        raise ValueError(f"this is no state of a Meter: it has no {', '.join(missing)}; give what `state_dict` told")
    if state["question"] != question:
        raise ValueError(f"this is the state of a Meter of {state['question']}, and this one is of {question}")
