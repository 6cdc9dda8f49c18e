"""What a Meter is told beside images: prompts, until these are looked at, and classes, by the numbers of the images."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from fewstep.eval.classes.labels import checked_labels, of_numbers
from fewstep.eval.scores.scoring import prompts_of


class Beside:
    """Prompts of generated images, and labels of both sides where a metric needs them."""

    def __init__(self, labelled: bool, paired: str = "") -> None:
        if paired:
            raise ValueError(f"{paired}: a Meter does not pair images; fewstep.eval.evaluate does")
        self.labelled = labelled
        self.prompts: dict[int, str] = {}
        self.labels: dict[bool, dict[int, str]] = {False: {}, True: {}}

    def tell(self, numbers: np.ndarray, real: bool, prompts: Any, labels: Any) -> None:
        """ValueError: other than one an image, or no labels where they are needed."""
        if not real:
            self.prompts |= prompts_of(numbers, prompts)
        if self.labelled:
            words = checked_labels(labels, len(numbers), "the real images" if real else "the generated images")
            self.labels[real] |= dict(zip(numbers.tolist(), words.tolist(), strict=True))

    def forget(self, waiting: Collection[int]) -> None:
        """Prompts of images that have been looked at."""
        for number in self.prompts.keys() - set(waiting):
            del self.prompts[number]

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
        return {"prompts": dict(self.prompts), "labels": {real: dict(told) for real, told in self.labels.items()}}

    def take(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`; nothing of the time before it stays."""
        self.prompts.clear()  # it is the extractor's too
        self.prompts |= state.get("prompts", {})
        self.labels = {real: dict(state.get("labels", {}).get(real, {})) for real in (False, True)}
