"""One image of any kind -> uint8 (3, H, W): the rules are here, and what breaks them is refused by name.

Grey is repeated, palettes are looked up, CMYK is converted without a profile and EXIF orientation is ignored (as all
evaluation tools do). An alpha channel that is opaque everywhere is dropped. More than 8 bits, transparency and animation are
refused: what they should become is a choice, and the choice moves the value.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".npy")
RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
_DEEP = "has more than 8 bits a channel; convert it to 8 bits by the rule that the other set was made with"
_CLEAR = "is transparent in places; put it on the background that it belongs on and save it as RGB"


class BadImage(ValueError):
    """An image that cannot be used; the message goes on after the image's name."""


def decode(data: bytes, suffix: str, value_range: Any = None) -> Tensor:
    """The bytes of an image file -> uint8 (3, H, W).

    Args:
        data: the whole file.
        suffix: ".npy" for an array (H, W), (H, W, C) or (C, H, W); all others are told apart by their contents.
        value_range: of floats in an array, see `quantised`.

    Raises:
        BadImage: unreadable, truncated, empty, or against the rules above.
    """
    from PIL import Image

    if suffix == ".npy":
        with _reading():
            array = np.load(BytesIO(data), allow_pickle=False)
        return from_array(array, value_range)
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:25] == b"\x10":  # Pillow would drop the low byte of 16 bits
        raise BadImage(_DEEP)
    with _reading(), Image.open(BytesIO(data)) as picture:
        return from_picture(picture)


@contextmanager
def _reading() -> Iterator[None]:
    """Whatever a decoder raises when it meets a broken file becomes a BadImage."""
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except Exception as error:
        reason = str(error).split("\n")[0].split(" <_io.")[0]
        raise BadImage(
            f"cannot be read ({reason or type(error).__name__}): it is broken, cut off or no image"
        ) from error


def decode_file(path: str | os.PathLike[str], value_range: Any = None) -> Tensor:
    """The image in a file, uint8 (3, H, W)."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadImage(f"cannot be read ({error.strerror or error})") from error
    return decode(data, Path(path).suffix.lower(), value_range)


def from_picture(picture: Any) -> Tensor:
    """A PIL image -> uint8 (3, H, W)."""
    if getattr(picture, "is_animated", False) and picture.format != "MPO":  # a photograph with a preview is still one
        raise BadImage(f"is animated or has pages ({picture.n_frames}); save the one that is meant")
    bits = getattr(picture, "tag_v2", {}).get(258, (8,))
    if picture.mode[:1] in "IF" or max(np.atleast_1d(bits)) > 8:
        raise BadImage(_DEEP)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema()[0] < 255:
            raise BadImage(_CLEAR)
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def from_array(image: Any, value_range: Any = None, layout: str | None = None) -> Tensor:
    """A numpy array or tensor (H, W), (C, H, W) or (H, W, C) with C of 1 to 4 -> uint8 (3, H, W).

    Args:
        image: uint8, or floats, which need `value_range`.
        value_range: (0, 1), (-1, 1) or (0, 255).
        layout: "CHW" or "HWC" where the shape leaves it open.
    """
    x = as_tensor(image)
    if x.ndim == 3:
        x = x.permute(2, 0, 1) if (layout or side_of_channels(x.shape)) == "HWC" else x
    elif x.ndim == 2:
        x = x[None]
    if x.ndim != 3 or not 1 <= len(x) <= 4 or x.numel() == 0:
        raise BadImage(
            f"has the shape {tuple(image.shape)}; expected (H, W), (C, H, W) or (H, W, C) with C from 1 to 4"
        )
    return _rgb(quantised(x.detach().cpu(), value_range))


def as_tensor(array: Any) -> Tensor:
    """A numpy array as a tensor (copied where torch could not read it safely); tensors as they are."""
    if isinstance(array, Tensor):
        return array
    try:
        return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))
    except TypeError as error:
        raise BadImage(f"holds {np.asarray(array).dtype}; expected uint8, or floats with a range") from error


def quantised(x: Tensor, value_range: Any = None) -> Tensor:
    """Floats -> uint8 by round(clamp(x') 255), half to even, x' being x moved to [0, 1]; uint8 as it is.

    It is what diffusers does to make pictures, so that arrays and the saved files of them have one value.

    Raises:
        BadImage: NaN or infinity; floats without a range, or so far out of it that it must be another.
    """
    if x.dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        raise BadImage(f"holds {x.dtype}; expected uint8, or floats with a range")
    checked_range(value_range, x.dtype)
    if not torch.isfinite(x).all():
        raise BadImage("holds NaN or infinity; the model or its decoder failed there (half precision often does)")
    low, high = map(float, value_range)
    seen = (float(x.min()), float(x.max()))
    if seen[0] < low - 5 * (high - low) or seen[1] > high + 5 * (high - low):
        raise BadImage(
            f"has values from {seen[0]:g} to {seen[1]:g}, which is not the range ({low:g}, {high:g}) that was given"
        )
    x = x if x.dtype == torch.float64 else x.float()
    if low < 0:
        x = x / 2 + 0.5
    if high == 1:
        x = x.clamp(0, 1) * 255
    return x.round().clamp(0, 255).to(torch.uint8)


def checked_range(value_range: Any, dtype: Any) -> None:
    """ValueError for floats whose range is not said, or is none of the three."""
    if value_range is None:
        raise ValueError(f"images of {dtype} can mean several things: say range=(0, 1), (-1, 1) or (0, 255)")
    if tuple(value_range) not in RANGES:
        raise ValueError(f"`range` must be (0, 1), (-1, 1) or (0, 255); got {value_range!r}")


def _rgb(x: Tensor) -> Tensor:
    """uint8 (C, H, W), C: grey, grey and alpha, RGB or RGB and alpha -> (3, H, W)."""
    if len(x) in (2, 4):
        if x[-1].min() < 255:
            raise BadImage(_CLEAR)
        x = x[:-1]
    return x.expand(3, -1, -1).contiguous()


def side_of_channels(shape: Any) -> str:
    """ "CHW" or "HWC" of one image; the end that can be channels is channels."""
    first, last = 1 <= shape[0] <= 4, 1 <= shape[-1] <= 4
    if first and last:
        raise BadImage(f"has the shape {tuple(shape)}, whose first and last sides could both be channels: say layout=")
    return "HWC" if last else "CHW"
