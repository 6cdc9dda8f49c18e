"""Every source of images says the same pixels, and what cannot be used is refused by name."""

import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.eval.images import ImageSet, holds_images, holds_statistics, image_set

N = 7
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 12, 10, 3), dtype=np.uint8)  # NHWC


def drawn(images: ImageSet, size: int = 3, workers: int = 0) -> tuple[list[int], list[torch.Tensor]]:
    n = images.count or 0
    blocks = [range(k, min(k + size, n)) for k in range(0, n, size)]
    found = list(images.read(blocks, workers) if images.count else images.stream(size))
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
        assert len(caught) == (0 if isinstance(source, list) else 2)


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
    with pytest.warns(UserWarning, match=r"2 images were passed over. 2\.png in") as caught:
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
    with pytest.warns(UserWarning, match="3 images were passed over. x.png in .* is transparent in places; put it on"):
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


def test_animated_images_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(pixels) for pixels in PIXELS[:3]]
    for name in ("a.png", "a.webp", "a.tiff"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(ValueError, match=r"is animated or has pages \(3\); save the one"):
            one(tmp_path / name)


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


# Arrays ---------------------------------------------------------------------------------------------------------------


def test_arrays_of_every_layout(tmp_path: Path) -> None:
    chw = PIXELS.transpose(0, 3, 1, 2)
    for array in (PIXELS, chw, np.asfortranarray(PIXELS), torch.from_numpy(PIXELS), torch.from_numpy(chw)):
        assert_same(image_set(array))
    grey = np.repeat(PIXELS[..., :1], 3, axis=3)
    for array in (PIXELS[..., 0], PIXELS[..., :1], chw[:, :1]):
        assert_same(image_set(array), grey)
    narrow = PIXELS[:, :3]  # (N, 3, W, 3)
    with pytest.raises(ValueError, match=r"both be channels: say layout="):
        image_set(narrow)
    assert_same(image_set(narrow, layout="NHWC"), narrow)
    assert drawn(image_set(narrow, layout="NCHW"))[1][0].shape == (3, 10, 3)
    with pytest.raises(ValueError, match="or one image with channels"):
        image_set(PIXELS[0])
    assert image_set(PIXELS[:4, ..., 0], layout="NHW").count == 4
    with pytest.raises(ValueError, match="unknown layout 'NHCW'.*'NCHW'"):
        image_set(PIXELS, layout="NHCW")


def test_floats_round_as_pictures_do() -> None:
    x = torch.tensor([0, 0.5 / 255, 1.5 / 255, 2.5 / 255, 0.5, 1, 1.2, -0.3], dtype=torch.float64)
    x = x.view(1, 1, 2, 4).expand(1, 3, 2, 4)
    levels = [0, 0, 2, 2, 128, 255, 255, 0]  # half to even, then clamped
    for array, how in ((x, (0, 1)), (2 * x - 1, (-1, 1)), (255 * x, (0, 255))):
        for dtype in (torch.float64, torch.float32):
            found = drawn(image_set(array.to(dtype), range=how, layout="NCHW"))[1][0]
            off = found[0].flatten().int() - torch.tensor(levels)
            assert off.abs().max() <= (0 if how != (-1, 1) else 1)
    exact = torch.arange(256, dtype=torch.float32).view(1, 1, 16, 16)
    for array in (exact / 255, (exact / 255).half(), (exact / 255).numpy()):
        assert torch.equal(drawn(image_set(array, range=(0, 1)))[1][0][0], exact[0, 0].byte())


def test_float_images_equal_those_that_diffusers_writes() -> None:
    from diffusers.image_processor import VaeImageProcessor

    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pictures = VaeImageProcessor().postprocess(x, output_type="pil")
    assert_same(image_set(x, range=(-1, 1)), np.stack([np.asarray(p) for p in pictures]))


@pytest.mark.parametrize(
    ("array", "how", "message"),
    [
        (np.zeros((2, 3, 8, 8), np.float32), {}, r"torch.float32 can mean several things: say range=\(0, 1\)"),
        (np.zeros((2, 3, 8, 8), np.float32), {"range": (0, 2)}, r"`range` must be .*; got \(0, 2\)"),
        (np.zeros((2, 3, 8, 8), np.int64), {}, "holds torch.int64; expected uint8, or floats"),
        (np.zeros((2, 3, 8, 8), np.uint16), {}, "holds torch.uint16; expected uint8"),
        (np.zeros((2, 3, 8, 8), object), {}, "holds object; expected uint8"),
        (np.zeros((0, 3, 8, 8), np.uint8), {}, r"\(0, 3, 8, 8\) holds no images"),
        (np.zeros((2, 3, 0, 8), np.uint8), {}, r"has the shape \(2, 3, 0, 8\)"),
        (np.zeros((2, 7, 8, 8), np.uint8), {}, r"has the shape \(7, 8, 8\); expected"),
        (np.zeros((2, 8), np.uint8), {}, r"has the shape \(2, 8\); images are"),
        (np.full((2, 3, 8, 8), 200.0), {"range": (0, 1)}, r"values from 200 to 200, which is not the range \(0, 1\)"),
        (np.full((2, 3, 8, 8), np.nan), {"range": (0, 1)}, "image 0 of .* holds NaN or infinity"),
        (torch.full((2, 3, 8, 8), torch.inf), {"range": (-1, 1)}, "image 0 of .* holds NaN or infinity"),
    ],
)
def test_arrays_that_are_refused(array: Any, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(image_set(array, **how))


def test_the_image_with_nan_is_named_and_can_be_passed_over() -> None:
    x = torch.rand(5, 3, 8, 8)
    x[3, 1, 2, 2] = torch.nan
    with pytest.raises(ValueError, match="image 3 of an array"):
        drawn(image_set(x, range=(0, 1)))
    with pytest.warns(UserWarning, match="1 images were passed over"):
        assert drawn(image_set(x, range=(0, 1), skip_bad=True))[0] == [0, 1, 2, 4]


def test_black_images_are_warned_of() -> None:
    x = PIXELS.copy()
    x[2] = x[5] = 0
    images = image_set(x)
    with pytest.warns(UserWarning, match="2 images are black all over") as caught:
        drawn(images)
    assert images.black == [2, 5] and len(caught) == 1


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_images_in_any_order_of_reading(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "adm.npz", PIXELS, np.arange(N))  # arr_0 images, arr_1 labels
    images = image_set(tmp_path / "adm.npz")
    assert_same(images)
    assert_same(images, size=2)  # a second pass starts again
    back = [found for _, found in images.read([range(5, 7), range(0, 2)])]
    assert np.array_equal(back[0][1].permute(1, 2, 0), PIXELS[6]) and np.array_equal(
        back[1][0].permute(1, 2, 0), PIXELS[0]
    )
    save(tmp_path / "keyed.npz", train=PIXELS, test=PIXELS[:2], labels=np.arange(N))
    with pytest.raises(ValueError, match=r"several arrays that can be images \(train, test\): say which, key="):
        image_set(tmp_path / "keyed.npz")
    assert_same(image_set(tmp_path / "keyed.npz", key="test"), PIXELS[:2])
    with pytest.raises(ValueError, match="unknown array of .* 'tran'. Did you mean 'train'"):
        image_set(tmp_path / "keyed.npz", key="tran")


def test_npz_takes_as_much_memory_as_a_block(tmp_path: Path) -> None:
    import tracemalloc

    big = np.zeros((2000, 64, 64, 3), np.uint8)  # 24.6 MB
    big[:, 0, 0] = 1
    np.savez(tmp_path / "stored.npz", big)
    np.savez_compressed(tmp_path / "packed.npz", big)
    np.save(tmp_path / "plain.npy", big)
    del big
    for name in ("stored.npz", "packed.npz", "plain.npy"):
        tracemalloc.start()
        for _ in image_set(tmp_path / name).stream(50):
            pass
        assert tracemalloc.get_traced_memory()[1] < 3e6, name
        tracemalloc.stop()


def test_npy_is_memory_mapped_and_broken_files_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PIXELS)
    assert_same(image_set(tmp_path / "x.npy"))
    np.savez_compressed(tmp_path / "x.npz", PIXELS)
    for name, message in (("x.npy", "x.npy is no readable .npy"), ("x.npz", "x.npz is no readable .npz")):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match=message):
            image_set(tmp_path / name)
    (tmp_path / "x.zip").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match=r"x\.zip is no readable \.zip"):
        image_set(tmp_path / "x.zip")


def test_statistics_are_told_from_images(tmp_path: Path) -> None:
    moments = {"mu": np.zeros(4), "sigma": np.eye(4)}
    np.savez(tmp_path / "stats.npz", **moments)
    np.savez(tmp_path / "adm.npz", arr_0=PIXELS, **moments)
    np.savez(tmp_path / "images.npz", PIXELS)
    written(tmp_path / "folder")
    both = {"stats.npz": (False, True), "adm.npz": (True, True), "images.npz": (True, False), "folder": (True, False)}
    for name, expected in both.items():
        assert (holds_images(tmp_path / name), holds_statistics(tmp_path / name)) == expected
    assert_same(image_set(tmp_path / "adm.npz"))
    with pytest.raises(ValueError, match="holds no images; its arrays are mu, sigma"):
        image_set(tmp_path / "stats.npz")


# Datasets and iterators -----------------------------------------------------------------------------------------------


class Labelled:
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def test_datasets_of_every_item(tmp_path: Path) -> None:
    pictures = [Image.fromarray(x) for x in PIXELS]
    chw = [torch.from_numpy(x).permute(2, 0, 1) for x in PIXELS]
    paths = [written(tmp_path) / f"{k}.png" for k in range(N)]
    for items in (
        pictures,
        chw,
        [x.float() / 255 for x in chw],
        [(p, 1) for p in pictures],
        [{"image": p} for p in pictures],
    ):
        assert_same(image_set(Labelled(items), range=(0, 1)))
    assert_same(image_set([{"jpg": p, "cls": 2} for p in pictures], key="jpg"))
    assert_same(image_set(paths))
    assert_same(image_set(torch.utils.data.TensorDataset(torch.stack(chw), torch.arange(N))))
    with pytest.raises(ValueError, match="unknown entry of the items 'image'"):
        drawn(image_set([{"jpg": pictures[0]}]))
    with pytest.raises(ValueError, match="str is no image|cannot be read"):
        drawn(image_set(["not there"]))
    with pytest.raises(ValueError, match="is 2 images; a Dataset's item is one"):
        drawn(image_set([(pictures[0], pictures[1])]))


def test_streams_of_images_and_batches() -> None:
    chw = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    labels = torch.arange(N)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(chw, labels), batch_size=2)
    sources: list[Any] = [
        iter(PIXELS),
        iter([chw[:4], chw[4:]]),
        iter([(chw[:1], labels[:1]), (chw[1:], labels[1:])]),
        iter([list(PIXELS[:3]), tuple(PIXELS[3:])]),
        iter([Image.fromarray(x) for x in PIXELS]),
        iter([{"image": chw, "label": labels}]),
    ]
    for source in sources:
        images = image_set(source)
        assert images.count is None
        assert_same(images, size=4)
        with pytest.raises(ValueError, match="an iterator gives its images once"):
            images.stream(2)
    again = image_set(iter_of(loader))
    assert_same(again)
    with pytest.raises(ValueError, match="can only be read from end to end"):
        again.read([range(2)])
    with pytest.raises(ValueError, match="gave no images"):
        drawn(image_set(iter([])))


def iter_of(loader: Any) -> Any:
    class Again:
        def __iter__(self) -> Iterator[Any]:
            return iter(loader)

    return Again()


def test_streams_pass_over_bad_images() -> None:
    x = torch.rand(5, 3, 8, 8)
    x[1] = torch.nan
    with pytest.warns(UserWarning, match="1 images were passed over"):
        assert drawn(image_set(iter([x]), range=(0, 1), skip_bad=True), size=2)[0] == [0, 2, 3, 4]
    with pytest.raises(ValueError, match="image 1 of a list_iterator holds NaN"):
        drawn(image_set(iter([x]), range=(0, 1)))


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
