"""What a Meter is told beside images: prompts and originals, until these are looked at, and classes, by the images' numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fewstep.eval.classes.labels import checked_labels, of_numbers
from fewstep.eval.scores.scoring import prompts_of


class Originals(dict[int, Tensor]):
    """Real images by the numbers of the generated ones that are compared with them."""

    def image(self, number: int) -> Tensor:
        return self[number]


class Beside:
    """Prompts of generated images, their originals where `paired` metrics compare, labels of both sides where needed."""

    def __init__(self, labelled: bool, paired: str = "") -> None:
        self.labelled, self.paired = labelled, paired
        self.prompts: dict[int, str] = {}
        self.originals = Originals()
        self.labels: dict[bool, dict[int, str]] = {False: {}, True: {}}

    def tell(
        self, numbers: np.ndarray, real: bool, prompts: Any, labels: Any, originals: Sequence[Tensor] | None = None
    ) -> None:
        """ValueError: other than one an image, or none where they are needed."""
        if not real:
            self.prompts |= prompts_of(numbers, prompts)
            compared = self._compared(originals, len(numbers))
            self.originals |= zip(numbers.tolist(), compared, strict=bool(compared))
        if self.labelled:
            words = checked_labels(labels, len(numbers), "the real images" if real else "the generated images")
            self.labels[real] |= dict(zip(numbers.tolist(), words.tolist(), strict=True))

    def _compared(self, originals: Sequence[Tensor] | None, count: int) -> list[Tensor]:
        """One original an image, or none at all where nothing is compared."""
        if not self.paired:
            if originals is not None:
                raise ValueError("no metric of this Meter compares images with their originals: leave `originals` away")
            return []
        found = list(originals or ())
        if len(found) != count:
            raise ValueError(
                f"{self.paired}: each image is compared with the real one that it should be; got {count} images and "
                f"{len(found)} of these: update(images, originals=real_images)"
            )
        return found

    def forget(self, waiting: Collection[int]) -> None:
        """What was told of images that have been looked at."""
        for told in (self.prompts, self.originals):
            for number in told.keys() - set(waiting):
                del told[number]

    def of(self, numbers: np.ndarray | None, real: bool, processes: Any) -> np.ndarray | None:
        """The labels of images of all processes; every process asks."""
        if not self.labelled or numbers is None:
            return None
        known = {number: label for part in processes.gather(self.labels[real]) for number, label in part.items()}
        return of_numbers(known, numbers, "the real images" if real else "the generated images")

    def merge(self, other: Beside, real: bool, anew: Mapping[int, int] | None) -> None:
        """Labels of another one; anew: other numbers for them."""
        named = {number if anew is None else anew[number]: label for number, label in other.labels[real].items()}
        self.labels[real] |= named

    def state(self) -> dict[str, Any]:
        labels = {real: dict(told) for real, told in self.labels.items()}
        return {"prompts": dict(self.prompts), "originals": dict(self.originals), "labels": labels}

    def take(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`; nothing of the time before it stays."""
        for name, told in (("prompts", self.prompts), ("originals", self.originals)):
            told.clear()  # it is the extractor's too
            told |= state.get(name, {})
        self.labels = {real: dict(state.get("labels", {}).get(real, {})) for real in (False, True)}
