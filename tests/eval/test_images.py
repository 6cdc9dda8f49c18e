"""Every source of images says the same pixels, and what cannot be used is refused by name."""

import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imagesets import PIXELS, N, assert_same, drawn, written
from PIL import Image

from fewstep.eval.images import image_set


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    return target


def one(folder: Path, **how: Any) -> torch.Tensor:
    (image,) = drawn(image_set(folder, **how))[1]
    return image


# Folders and zips -----------------------------------------------------------------------------------------------------


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    names = ["a2.png", "a10.png", "b/00000/img00000002.png", "b/00001/img00000001.png", "B.bmp", "c.TIFF", "d.tif"]
    order = sorted(
        range(N), key=lambda k: ["B.bmp", "a2.png", "a10.png", *names[2:4], "c.TIFF", "d.tif"].index(names[k])
    )
    folder = written(tmp_path / "set", names)
    for name in ("labels.json", ".hidden.png", "__MACOSX/a2.png", ".git/a.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no image")
    assert_same(image_set(folder), PIXELS[order])
    assert_same(image_set(zipped(folder, tmp_path / "set.zip")), PIXELS[order])
    assert_same(image_set(str(folder)), PIXELS[order])


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    folder = written(tmp_path / "real/00000")
    (tmp_path / "linked").symlink_to(folder.parent)
    (folder / "back").symlink_to(folder.parent)
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer/inner").symlink_to(folder)
    for path in (tmp_path / "linked", tmp_path / "outer"):
        assert_same(image_set(path))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(tmp_path: Path, workers: int) -> None:
    sizes = [Image.fromarray(PIXELS[k]).resize((8 + k, 9)) for k in range(N)]
    folder = tmp_path / "mixed"
    folder.mkdir()
    for k, image in enumerate(sizes):
        image.save(folder / f"{k}.png")
    (folder / "3.png").write_bytes(b"broken")
    sets = (folder, zipped(folder, tmp_path / "mixed.zip"), [np.asarray(image) for image in sizes])
    for source in sets:
        a, b = image_set(source, skip_bad=True), image_set(source, skip_bad=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            alone, together = drawn(a), drawn(b, workers=workers)
        assert alone[0] == together[0] and a.skipped == b.skipped
        assert all(torch.equal(x, y) for x, y in zip(alone[1], together[1], strict=True))
        told = [one for one in caught if issubclass(one.category, UserWarning)]  # not that a process with threads forks
        assert len(told) == (0 if isinstance(source, list) else 2)


def test_a_worker_names_the_broken_image_too(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:150])
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"^5\.png in .* cannot be read .*cut off.*--skip-bad\)$"):
            drawn(image_set(folder), workers=workers)
    float_range = [np.zeros((4, 9, 9), np.float32)] * 2
    with pytest.raises(ValueError, match=r"^images of torch.float32 can mean several things: say range="):
        drawn(image_set(float_range), workers=1)


def test_bad_images_are_passed_over_and_counted(tmp_path: Path) -> None:
    folder = written(tmp_path)
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[: len(whole) // 2])
    (folder / "4.png").write_bytes(b"")
    images = image_set(folder, skip_bad=True)
    with pytest.warns(UserWarning, match=r"images passed over: 2. 2\.png in") as caught:
        indices, _ = drawn(images)
    assert indices == [0, 1, 3, 5, 6] and len(caught) == 1
    assert [name.split()[0] for name, _ in images.skipped] == ["2.png", "4.png"]
    with pytest.warns(UserWarning):  # a second pass counts none twice
        drawn(image_set(folder, skip_bad=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(images)
    assert len(images.skipped) == 2


def test_lossy_is_told_by_the_suffix(tmp_path: Path) -> None:
    assert image_set(written(tmp_path / "png")).lossy is False
    assert image_set(written(tmp_path / "jpg", ["0.png", "1.JPG"], PIXELS[:2])).lossy is True
    for lossless in (True, False):
        folder = tmp_path / f"webp-{lossless}"
        folder.mkdir()
        Image.fromarray(PIXELS[0]).save(folder / "0.webp", lossless=lossless)
        assert image_set(folder).lossy is not lossless
        assert image_set(zipped(folder, tmp_path / f"{lossless}.zip")).lossy is not lossless
    assert image_set(PIXELS).lossy is None


def test_fingerprints_follow_the_contents(tmp_path: Path) -> None:
    folder = written(tmp_path / "set")
    archive = zipped(folder, tmp_path / "set.zip")
    np.savez(tmp_path / "set.npz", PIXELS)

    def prints() -> list[str]:
        sources = (folder, archive, tmp_path / "set.npz", PIXELS, torch.from_numpy(PIXELS), list(PIXELS))
        return [image_set(source).fingerprint for source in sources]

    before = prints()
    assert prints() == before and len(set(before)) >= 5
    changed = PIXELS[0] ^ 1
    Image.fromarray(changed).save(folder / "0.png")
    zipped(folder, archive)
    np.savez(tmp_path / "set.npz", np.stack([changed, *PIXELS[1:]]))
    assert all(a != b for a, b in zip(before[:3], prints()[:3], strict=True))
    assert image_set(np.stack([changed, *PIXELS[1:]])).fingerprint != before[3]
    x = torch.rand(2, 3, 8, 8)
    assert image_set(x, range=(0, 1)).fingerprint != image_set(x, range=(-1, 1)).fingerprint
    assert image_set(iter(PIXELS)).fingerprint != image_set(iter(PIXELS)).fingerprint


# What one image becomes -----------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth: int, colour: int, raw: bytes, extra: bytes = b"", side: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def test_grey_palette_and_bits_become_rgb(tmp_path: Path) -> None:
    grey, rgb = Image.fromarray(PIXELS[0, ..., 0]), Image.fromarray(PIXELS[0])
    palette = rgb.quantize(16)
    bits = grey.point(lambda v: 255 * (v > 99), "1")
    for name, image in {"L": grey, "P": palette, "1": bits, "RGB": rgb}.items():
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "x.png")
        assert np.array_equal(one(tmp_path / name).permute(1, 2, 0), np.asarray(image.convert("RGB")))


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path: Path) -> None:
    alpha = np.full((12, 10), 255, np.uint8)
    holed = alpha.copy()
    holed[5, 5] = 254
    for name, channel in {"opaque": alpha, "holed": holed}.items():
        (tmp_path / name).mkdir()
        Image.fromarray(np.dstack([PIXELS[0], channel])).save(tmp_path / name / "x.png")
        np.save(tmp_path / name / "y.npy", np.dstack([PIXELS[0], channel]))
        Image.fromarray(np.dstack([PIXELS[0, ..., 0], channel])).save(tmp_path / name / "z.png")
    rgb, array, grey = drawn(image_set(tmp_path / "opaque"))[1]
    assert np.array_equal(rgb.permute(1, 2, 0), PIXELS[0]) and torch.equal(rgb, array)
    assert np.array_equal(grey, np.repeat(PIXELS[0, None, ..., 0], 3, axis=0))
    with pytest.warns(UserWarning, match="images passed over: 3. x.png in .* is transparent in places; put it on"):
        assert drawn(image_set(tmp_path / "holed", skip_bad=True)) == ([], [])
    trns = png(8, 0, b"\0\1\2\0\3\4", chunk(b"tRNS", struct.pack(">H", 2)))
    (tmp_path / "key.png").write_bytes(trns)
    with pytest.raises(ValueError, match="key.png .* transparent"):
        one(tmp_path / "key.png")
    (tmp_path / "key.png").write_bytes(png(8, 0, b"\0\1\2\0\3\4", chunk(b"tRNS", struct.pack(">H", 9))))
    assert one(tmp_path / "key.png")[0].tolist() == [[1, 2], [3, 4]]  # a key that no pixel has


def test_more_than_eight_bits_are_refused(tmp_path: Path) -> None:
    row = b"\0" + bytes(range(12))
    (tmp_path / "rgb16.png").write_bytes(png(16, 2, row * 2))
    (tmp_path / "grey16.png").write_bytes(png(16, 0, (b"\0" + bytes(4)) * 2))
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "grey16.tiff")
    Image.new("F", (4, 4)).save(tmp_path / "float.tif")
    Image.new("I", (4, 4)).save(tmp_path / "int.tiff")
    (tmp_path / "rgb16.tiff").write_bytes(tiff16())
    assert Image.open(tmp_path / "rgb16.tiff").mode == "RGB"  # Pillow alone would cut it to 8 bits
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match="has more than 8 bits a channel; convert it"):
            one(path)


def tiff16() -> bytes:
    """A 2x2 RGB TIFF of 16 bits."""
    at = 8 + 24
    tags = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 3, at), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 3), (278, 3, 1, 2), (279, 4, 1, 24)]
    ifd = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", at + 6) + bytes(range(24)) + struct.pack("<3H", 16, 16, 16) + ifd


def test_orientation_is_ignored_and_cmyk_converted(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS[0]).save(tmp_path / "turned.jpg", exif=exif)
    assert one(tmp_path / "turned.jpg").shape == (3, 12, 10)
    Image.fromarray(PIXELS[0]).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert np.array_equal(one(tmp_path / "cmyk.jpg").permute(1, 2, 0), Image.open(tmp_path / "cmyk.jpg").convert("RGB"))


def test_npy_files_are_images_too(tmp_path: Path) -> None:
    chw = PIXELS[0].transpose(2, 0, 1)
    np.save(tmp_path / "0.npy", PIXELS[0])
    np.save(tmp_path / "1.npy", chw)
    np.save(tmp_path / "2.npy", np.asfortranarray(chw).astype(">f4") / 255)
    a, b, c = drawn(image_set(tmp_path, range=(0, 1)))[1]
    assert torch.equal(a, b) and torch.equal(a, c)
    with pytest.raises(ValueError, match=r"say range=\(0, 1\)"):
        drawn(image_set(tmp_path))
    np.save(tmp_path / "2.npy", np.array([{"pickled": 1}], object))
    with pytest.raises(ValueError, match="2.npy in .* cannot be read"):
        drawn(image_set(tmp_path))


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "")
    expected = {
        tmp_path / "empty": "empty holds no images",
        tmp_path / "empty.zip": "empty.zip holds no images",
        tmp_path / "notes.txt": "is no folder, .zip, .npz or .npy, nor an image",
        tmp_path / "missing": "missing' does not exist; give a folder",
        12: "int is no set of images",
    }
    for source, message in expected.items():
        with pytest.raises(ValueError, match=message):
            image_set(source)
    with pytest.raises(ValueError, match="a list of 0 holds no images"):
        image_set([])


def test_an_image_that_vanishes_is_named(tmp_path: Path) -> None:
    images = image_set(written(tmp_path))
    os.unlink(tmp_path / "3.png")
    with pytest.raises(ValueError, match=r"3\.png in .* cannot be read \(No such file"):
        drawn(images)
