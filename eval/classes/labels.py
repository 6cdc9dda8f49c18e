"""The class of every image, as a word: from the folder that it lies in, or as somebody says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from torch import Tensor

HOW = "put the images of each class into a folder of its own, or give labels= (real_labels= of the real ones), one an image"


def of_folders(files: Sequence[str]) -> np.ndarray | None:
    """The first folder on the way to each file; None where some lie in none."""
    parts = [PurePosixPath(file).parts for file in files]
    return np.array([part[0] for part in parts]) if all(len(part) > 1 for part in parts) else None


def checked_labels(labels: Any, count: int | None, whose: str) -> np.ndarray:
    """Labels (n,) as words; 3, "3" and a tensor of 3 are one class. ValueError: other than one an image, or none at all."""
    if labels is None:
        raise ValueError(f"{whose} have no labels: {HOW}")
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iuUb":
        raise ValueError(f"labels of {whose} are whole numbers or words, one an image; got {array.dtype} {array.shape}")
    if count is not None and len(array) != count:
        raise ValueError(
            f"{len(array)} labels were given for {count} images, {whose}: give one an image, in their order"
        )
    return array.astype(str)


def labels_in(path: str) -> np.ndarray:
    """Labels out of a file, one an image in their order: a line each, or an array in a .npy. ValueError for anything else."""
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {path!r} with labels: a line an image, or an array in a .npy")
    try:
        if path.endswith(".npy"):
            return np.asarray(np.load(path, allow_pickle=False))
        with open(path, encoding="utf-8-sig") as lines:
            found = [line.strip() for line in lines]
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} holds no labels ({error}): a line an image, or an array in a .npy") from error
    while found and not found[-1]:
        del found[-1]
    if "" in found:
        raise ValueError(
            f"line {found.index('') + 1} of {path} has no label: one a line, for each image in their order"
        )
    return np.array(found, str)


def of_numbers(known: Mapping[int, str], numbers: np.ndarray, whose: str) -> np.ndarray:
    """Labels of images by their numbers. ValueError: some have none."""
    missing = [int(number) for number in numbers if int(number) not in known]
    if missing:
        raise ValueError(f"{len(missing)} of {whose} have no label, number {missing[0]} among them: {HOW}")
    return np.array([known[int(number)] for number in numbers])


@dataclass
class Classes:
    """The labels of both sides of one evaluation.

    Attributes:
        wanted: whether a metric needs them.
        given: by side (True: real): as they were given, then as words.
    """

    wanted: bool = False
    given: dict[bool, Any] = field(default_factory=lambda: {False: None, True: None})

    def settle(self, features: Any, images: Any, real: bool) -> None:
        """The labels of one side, of Features or an ImageSet. ValueError: none are known, or other than one an image."""
        whose, given = "the real images" if real else "the generated images", self.given[real]
        if features is not None:
            features.labels = checked_labels(features.labels if given is None else given, features.n, whose)
            return
        self.given[real] = checked_labels(images.labels if given is None else given, images.count, whose)

    def numbered(self, processes: Any, real: bool) -> dict[int, str]:
        """Labels by the numbers of the images, of all processes; nothing where none are wanted."""
        if not self.wanted:
            return {}
        labels = self.given[real]
        own = dict(zip(processes.numbers(range(len(labels))).tolist(), labels.tolist(), strict=True))
        return {number: label for part in processes.gather(own) for number, label in part.items()}
