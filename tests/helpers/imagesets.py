"""Images for tests of what reads them, and a reader of everything."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fewstep.eval.images import ImageSet
from fewstep.eval.images.reading import read

N = 7
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 12, 10, 3), dtype=np.uint8)  # NHWC


def blobs(n: int, seed: int) -> np.ndarray:
    """n grey 28x28 images with a blob each."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:28, :28]
    cx, cy, w = random.uniform(8, 20, (3, n, 1, 1))
    return np.round(255 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / w)).astype(np.uint8)


def drawn(images: ImageSet, size: int = 3, workers: int = 0) -> tuple[list[int], list[torch.Tensor]]:
    n = images.count or 0
    blocks = [range(k, min(k + size, n)) for k in range(0, n, size)]
    found = list(read(images, blocks, workers) if images.count else images.stream(size))
    return [int(i) for indices, _ in found for i in indices], [image for _, some in found for image in some]


def assert_same(images: ImageSet, expected: np.ndarray = PIXELS, **how: Any) -> None:
    indices, found = drawn(images, **how)
    assert indices == list(range(len(expected)))
    for image, pixels in zip(found, expected, strict=True):
        assert image.dtype == torch.uint8 and image.shape == (3, *pixels.shape[:2])
        assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)


def written(folder: Path, names: list[str] | None = None, pixels: np.ndarray = PIXELS) -> Path:
    for name, image in zip(names or [f"{k}.png" for k in range(len(pixels))], pixels, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return folder
