"""Arrays, .npz files, Datasets and iterators as sets of images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imagesets import PIXELS, N, assert_same, drawn, written
from PIL import Image

from fewstep.eval.gaussian.statfile import holds_statistics
from fewstep.eval.images import holds_images, image_set


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
    x = torch.cat([x, torch.full((392,), 0.5, dtype=torch.float64)]).view(1, 1, 20, 20).expand(1, 3, 20, 20)
    levels = [0, 0, 2, 2, 128, 255, 255, 0]  # half to even, then clamped
    for array, how in ((x, (0, 1)), (2 * x - 1, (-1, 1)), (255 * x, (0, 255))):
        for dtype in (torch.float64, torch.float32):
            found = drawn(image_set(array.to(dtype), range=how, layout="NCHW"))[1][0]
            off = found[0].flatten()[:8].int() - torch.tensor(levels)
            assert off.abs().max() <= (0 if how != (-1, 1) else 1)
    exact = torch.arange(256, dtype=torch.float32).view(1, 1, 16, 16)
    for array in (exact / 255, (exact / 255).half(), (exact / 255).numpy()):
        assert torch.equal(drawn(image_set(array, range=(0, 1)))[1][0][0], exact[0, 0].byte())


def test_float_images_equal_those_that_diffusers_writes() -> None:
    from diffusers.image_processor import VaeImageProcessor

    x = 0.35 * torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert x.abs().max() > 1  # some lie outside
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
        (np.full((2, 3, 8, 8), 200.0), {"range": (0, 1)}, r"values from 200 to 200, 100 % of them outside"),
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
    with pytest.warns(UserWarning, match="images passed over: 1"):
        assert drawn(image_set(x, range=(0, 1), skip_bad=True))[0] == [0, 1, 2, 4]


def test_black_images_are_warned_of() -> None:
    x = PIXELS.copy()
    x[2] = x[5] = 0
    images = image_set(x)
    with pytest.warns(UserWarning, match="black all over: 2") as caught:
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
    assert image_set(paths).lossy is False and image_set(paths).fingerprint != image_set(paths[::-1]).fingerprint
    assert_same(image_set(Labelled(paths)))
    assert_same(image_set(torch.utils.data.TensorDataset(torch.stack(chw), torch.arange(N))))
    with pytest.raises(ValueError, match="unknown entry of the items 'image'"):
        drawn(image_set([{"jpg": pictures[0]}]))
    with pytest.raises(ValueError, match="not there in a list of 1 files cannot be read"):
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
    with pytest.warns(UserWarning, match="images passed over: 1"):
        assert drawn(image_set(iter([x]), range=(0, 1), skip_bad=True), size=2)[0] == [0, 2, 3, 4]
    with pytest.raises(ValueError, match="image 1 of a list_iterator holds NaN"):
        drawn(image_set(iter([x]), range=(0, 1)))
