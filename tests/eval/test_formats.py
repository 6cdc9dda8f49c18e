"""Formats of images, files that are left out, and ranges of floats: what is not as it seems is said."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imagesets import PIXELS, drawn, written
from PIL import Image

from fewstep.eval.images import image_set
from fewstep.eval.images.reading import read


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    return target


def one(path: Path) -> torch.Tensor:
    (image,) = drawn(image_set(path))[1]
    return image


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_of_an_animation_the_first_is_taken_and_said(tmp_path: Path, workers: int) -> None:
    frames = [Image.fromarray(pixels) for pixels in PIXELS[:3]]
    for name in ("a.png", "b.webp", "c.tiff"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    frames[1].save(tmp_path / "d.png")
    images = image_set(tmp_path)
    with pytest.warns(UserWarning, match=r"of which the first was taken: 3, a.png in .* among them"):
        ((_, found),) = read(images, [range(4)], workers)
    assert all(np.array_equal(image.permute(1, 2, 0), PIXELS[0]) for image in found[:3])
    with Image.open(tmp_path / "a.png") as picture, pytest.raises(ValueError, match=r"has pages \(3\); save the one"):
        drawn(image_set([picture]))  # whoever hands over an open picture chooses its frame


def test_all_that_pillow_reads_is_read(tmp_path: Path) -> None:
    picture = Image.fromarray(PIXELS[0])
    exact = {
        ".ppm": picture,
        ".pnm": picture,
        ".pgm": picture.convert("L"),
        ".gif": picture.quantize(16),
        ".tga": picture,
    }
    for name, image in exact.items():
        image.save(tmp_path / f"x{name}")
        assert np.array_equal(one(tmp_path / f"x{name}").permute(1, 2, 0), np.asarray(image.convert("RGB"))), name
    picture.save(tmp_path / "x.jfif")
    assert image_set(tmp_path).count == 6 and image_set(tmp_path).lossy is True
    (tmp_path / "x.jxl").write_bytes(b"\xff\x0a no decoder")
    with pytest.raises(ValueError, match="x.jxl is .jxl, which Pillow reads here only with|cannot be read"):
        one(tmp_path / "x.jxl")


def test_what_is_left_out_of_a_folder_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path / "set")
    for name in ("a.heic", "b.HEIC", "c.svg", "labels.json", "LICENSE"):
        (folder / name).write_bytes(b"x")
    for place in (folder, zipped(folder, tmp_path / "set.zip")):
        with pytest.warns(UserWarning, match="left out, not read as images: 2 .heic, 1 .svg$"):
            assert image_set(place).count == len(PIXELS)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.heic").write_bytes(b"x")
    with pytest.raises(ValueError, match="holds no images .*, but 1 .heic: save them as .png"):
        image_set(tmp_path / "only")


@pytest.mark.parametrize(
    ("low", "high", "given", "said"),
    [(-1, 1, (0, 1), r"range=\(-1, 1\) fits"), (0, 255, (-1, 1), r"range=\(0, 255\) fits"),
     (0, 9, (0, 1), r"range=\(0, 255\) fits"),
     (-300, 300, (0, 255), "none of the three ranges fits")],
)  # fmt: skip
def test_a_range_that_does_not_fit_is_refused_with_what_fits(low: int, high: int, given: Any, said: str) -> None:
    x = np.random.default_rng(0).uniform(low, high, (2, 3, 8, 8)).astype(np.float32)
    with pytest.raises(ValueError, match=f"values from .* outside the range .* was given; {said}"):
        drawn(image_set(x, range=given))


def test_a_percent_may_lie_outside_a_range() -> None:
    x = np.full((1, 3, 20, 20), 0.5, np.float32)
    x.reshape(-1)[:12] = 1.5
    assert drawn(image_set(x, range=(0, 1)))[1][0].max() == 255
    x.reshape(-1)[12] = 1.5
    with pytest.raises(ValueError, match="1.08 % of them outside"):
        drawn(image_set(x, range=(0, 1)))
    assert drawn(image_set(np.full((1, 3, 8, 8), 1.005, np.float32), range=(0, 1)))[1][0].min() == 255  # an overshoot
