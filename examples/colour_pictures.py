"""Pictures of classes out of a file: a zip or a folder of images by class, torchvision's CIFAR-10, or arrays in an .npz."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fewstep.eval.images.decode import SUFFIXES, BadImage, decode
from fewstep.output.seal import digest_of_arrays

SPLITS = ("train", "test")
FORMS = "a zip or folder with train/CLASS/*.jpg and test/CLASS/*.jpg, torchvision's cifar-10-batches-py, or an .npz"
ARRAYS = "train_images (N, H, W, 3) in uint8, train_labels (N,), test_images and test_labels"


@dataclass(frozen=True)
class Pictures:
    """uint8 images (N, 3, H, W) and int64 labels (N,), by split; names of the classes."""

    images: dict[str, Tensor]
    labels: dict[str, Tensor]
    names: list[str]

    def __post_init__(self) -> None:
        shape = self.images["train"].shape[1:]
        if not all(len(self.images[split]) for split in SPLITS) or self.images["test"].shape[1:] != shape:
            raise ValueError(f"train and test need pictures of one size each; expected {FORMS}")
        if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2] or shape[1] % 8:
            raise ValueError(
                f"pictures must be square, in colour, of sides that 8 divides; got (C, H, W) = {tuple(shape)}"
            )
        for split, labels in self.labels.items():
            if labels.shape != self.images[split].shape[:1] or labels.min() < 0 or labels.max() >= len(self.names):
                raise ValueError(f"{split}_labels must be one of 0..{len(self.names) - 1} for each picture")

    def digest(self) -> str:
        """What tells these pictures from others."""
        found = {f"{split}_images": self.images[split].numpy() for split in SPLITS}
        return digest_of_arrays(found | {f"{split}_labels": self.labels[split].numpy() for split in SPLITS})


def load(path: Path) -> Pictures:
    """The pictures at a path. ValueError for what is none of the forms."""
    if not path.exists():
        raise ValueError(f"{path} does not exist; expected {FORMS}")
    if path.is_dir():
        batches = path if path.name == "cifar-10-batches-py" else path / "cifar-10-batches-py"
        return torchvision_cifar(batches.parent) if batches.is_dir() else by_class(list(in_folder(path)), path)
    if path.suffix == ".npz":
        return in_arrays(path)
    try:
        with ZipFile(path) as archive:
            return by_class(list(in_zip(archive)), path)
    except BadZipFile as error:
        raise ValueError(f"{path} is no zip ({error}); expected {FORMS}") from error


def in_arrays(path: Path) -> Pictures:
    """Out of an .npz."""
    try:
        with np.load(path) as npz:
            found = {name: npz[name] for split in SPLITS for name in (f"{split}_images", f"{split}_labels")}
    except (KeyError, OSError, ValueError, BadZipFile) as error:
        raise ValueError(f"{path} must hold {ARRAYS}; {str(error).strip(chr(39))}") from error
    images = {split: found[f"{split}_images"] for split in SPLITS}
    if any(x.ndim != 4 or x.dtype != np.uint8 for x in images.values()):
        raise ValueError(f"{path} must hold {ARRAYS}; got {[(x.shape, str(x.dtype)) for x in images.values()]}")
    labels = {split: torch.from_numpy(found[f"{split}_labels"].astype(np.int64)) for split in SPLITS}
    names = [str(k) for k in range(1 + max(labels["train"].tolist(), default=-1))]
    return Pictures({s: torch.from_numpy(x.transpose(0, 3, 1, 2).copy()) for s, x in images.items()}, labels, names)


def torchvision_cifar(root: Path) -> Pictures:
    """Out of what torchvision's CIFAR10(root, download=True) left, whose checksums it proves."""
    from torchvision.datasets import CIFAR10

    try:
        sets = {split: CIFAR10(root, train=split == "train") for split in SPLITS}
    except RuntimeError as error:
        raise ValueError(f"{root} holds no whole CIFAR-10 of torchvision: {error}") from error
    images = {split: torch.from_numpy(one.data.transpose(0, 3, 1, 2).copy()) for split, one in sets.items()}
    return Pictures(
        images, {split: torch.tensor(one.targets) for split, one in sets.items()}, list(sets["train"].classes)
    )


File = tuple[str, Callable[[], bytes]]  # its path from the root on, and how it is read


def in_folder(root: Path) -> Iterator[File]:
    for file in sorted(root.rglob("*")):
        if file.is_file():
            yield file.relative_to(root).as_posix(), file.read_bytes


def in_zip(archive: ZipFile) -> Iterator[File]:
    for name in sorted(archive.namelist()):
        yield name, lambda name=name: archive.read(name)


def by_class(files: list[File], root: Path) -> Pictures:
    """Out of image files .../SPLIT/CLASS/NAME, classes in the order of their names."""
    found = [(PurePosixPath(name).parts[-3:], read) for name, read in files if name.lower().endswith(SUFFIXES)]
    found = [(parts, read) for parts, read in found if len(parts) == 3 and parts[0] in SPLITS]
    names = sorted({parts[1] for parts, _ in found})
    images: dict[str, list[Tensor]] = {split: [] for split in SPLITS}
    labels: dict[str, list[int]] = {split: [] for split in SPLITS}
    for (split, name, file), read in tqdm(found, desc="reading pictures", disable=not sys.stderr.isatty()):
        try:
            picture = decode(read(), Path(file).suffix.lower())
        except BadImage as error:
            raise ValueError(f"{root}: {split}/{name}/{file} {error}") from error
        if images["train"] and picture.shape != images["train"][0].shape:
            raise ValueError(
                f"{root}: {split}/{name}/{file} is {tuple(picture.shape)}, others are not: one size is needed"
            )
        images[split].append(picture)
        labels[split].append(names.index(name))
    if not all(images.values()):
        raise ValueError(
            f"{root} has no pictures for {' and '.join(s for s in SPLITS if not images[s])}; expected {FORMS}"
        )
    return Pictures(
        {split: torch.stack(x) for split, x in images.items()}, {s: torch.tensor(y) for s, y in labels.items()}, names
    )
