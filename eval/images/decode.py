"""One image of any kind -> uint8 (3, H, W): the rules are here, and what breaks them is refused by name.

Grey is repeated, palettes are looked up, CMYK is converted without a profile and EXIF orientation is ignored (as all
evaluation tools do). An alpha channel that is opaque everywhere is dropped. Of a GIF or another file that holds an animation
or pages the first is taken where the caller can tell of it, else it is refused; so are more than 8 bits and transparency: what
they should become is a choice, and the choice moves the value. So are images that would take more memory than a
limit, before any of it is taken, and whatever is no ordinary file.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from fewstep.eval.feed.quantising import FAR, RANGES, SHARE, levels, slack
from fewstep.lazy import optional

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga", ".avif", ".jxl", ".npy"),
)
LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")
# Told apart by their contents; none of them is drawn by another program, as Pillow does with PostScript.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "TIFF", "GIF", "JPEG2000", "PPM", "TGA", "AVIF", "JXL")
PLUGINS = {".jxl": "pillow-jxl-plugin", ".avif": "pillow 11.3 or later"}  # what brings a decoder that Pillow may lack
LIMIT = 192  # MiB that a decoded image, 3 bytes a pixel, or its file may take: 8192 x 8192
_DEEP = "has more than 8 bits a channel; convert it to 8 bits by the rule that the other set was made with"
_CLEAR = "is transparent in places; put it on the background that it belongs on and save it as RGB"


class BadImage(ValueError):
    """An image that cannot be used; the message goes on after the image's name."""


class Header(NamedTuple):
    """Of an array in a file."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


def npy_header(stream: Any) -> Header:
    """What the beginning of a .npy tells; the stream stands behind it."""
    read = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
    return Header(*read(stream))


def whole_npy(stream: Any, length: int) -> Header:
    """The same of a .npy of so many bytes. BadImage where it tells of fewer or more: it carries no sum to check it by."""
    header = npy_header(stream)
    told = stream.tell() + math.prod(header.shape) * header.dtype.itemsize
    if told != length and not header.dtype.hasobject:
        raise BadImage(f"has {length} bytes, and its header tells of {told}: it was cut off or changed")
    return header


def decode(
    data: bytes, suffix: str, value_range: Any = None, limit: int = LIMIT, told: set[str] | None = None
) -> Tensor:
    """The bytes of an image file -> uint8 (3, H, W).

    Args:
        data: the whole file.
        suffix: ".npy" for an array (H, W), (H, W, C) or (C, H, W); all others are told apart by their contents.
        value_range: of floats in an array, see `quantised`.
        limit: MiB that it may take when it is decoded.
        told: gets "first" where the image is the first of several in the file; None refuses such files.

    Raises:
        BadImage: unreadable, truncated, empty, too large, or against the rules above.
    """
    with optional("reading images"):
        from PIL import Image

    if suffix == ".npy":
        with _reading():
            check_size(math.prod(whole_npy(BytesIO(data), len(data)).shape), limit)
            array = np.load(BytesIO(data), allow_pickle=False)
        return from_array(array, value_range)
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:25] == b"\x10":  # Pillow would drop the low byte of 16 bits
        raise BadImage(_DEEP)
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    if suffix in PLUGINS and Image.registered_extensions().get(suffix) not in known:
        raise BadImage(f"is {suffix}, which Pillow reads here only with {PLUGINS[suffix]}: install it, or save as .png")
    with _reading(), Image.open(BytesIO(data), formats=known) as picture:
        return from_picture(picture, limit, told)


def check_size(count: int, limit: int) -> None:
    """BadImage where so many bytes are more than `limit` MiB."""
    if count > limit << 20:
        size = f"{-(-count >> 20)}" if count >> 20 < 10**6 else "millions of"
        raise BadImage(
            f"would take {size} MiB, and {limit} are allowed to one image; where that is meant, say limit= (--limit MIB)"
        )


def contents_of(path: str | os.PathLike[str], limit: int = LIMIT) -> bytes:
    """The whole file. BadImage: no ordinary file (a pipe would be waited for), too large, unreadable."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            told = os.fstat(handle)
            if not stat.S_ISREG(told.st_mode):
                raise BadImage("is no ordinary file")
            check_size(told.st_size, limit)
            return file.read()
    except OSError as error:
        raise BadImage(f"cannot be read ({error.strerror or error})") from error


@contextmanager
def _reading() -> Iterator[None]:
    """Whatever a decoder raises when it meets a broken file becomes a BadImage."""
    try:
        yield
    except BadImage:
        raise
    except Exception as error:
        reason = str(error).split("\n")[0].split(" <_io.")[0]
        raise BadImage(
            f"cannot be read ({reason or type(error).__name__}): it is broken, cut off or no image"
        ) from error


def decode_file(path: str | os.PathLike[str], value_range: Any = None, limit: int = LIMIT) -> Tensor:
    """The image in a file, uint8 (3, H, W)."""
    return decode(contents_of(path, limit), Path(path).suffix.lower(), value_range, limit)


def from_picture(picture: Any, limit: int = LIMIT, told: set[str] | None = None) -> Tensor:
    """A PIL image -> uint8 (3, H, W). told: as of `decode`."""
    check_size(3 * math.prod(picture.size), limit)
    if getattr(picture, "is_animated", False) and picture.format != "MPO":  # a photograph with a preview is still one
        if told is None:
            raise BadImage(f"is animated or has pages ({picture.n_frames}); save the one that is meant")
        told.add("first")
    bits = getattr(picture, "tag_v2", {}).get(258, (8,))
    if picture.mode[:1] in "IF" or max(np.atleast_1d(bits)) > 8:
        raise BadImage(_DEEP)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema()[0] < 255:
            raise BadImage(_CLEAR)
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def from_opened(picture: Any, limit: int = LIMIT) -> Tensor:
    """The same of a picture that somebody opened and that is read now: what its decoder raises makes it a BadImage."""
    with _reading():
        return from_picture(picture, limit)


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
        BadImage: NaN or infinity; floats without a range, or more than 1 % of them outside it, where it must be another.
    """
    if x.dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        raise BadImage(f"holds {x.dtype}; expected uint8, or floats with a range")
    checked_range(value_range, x.dtype)
    if not torch.isfinite(x).all():
        raise BadImage("holds NaN or infinity; the model or its decoder failed there (half precision often does)")
    low, high = map(float, value_range)
    _require_fit(x, low, high)
    return levels(x, value_range)


def _require_fit(x: Tensor, low: float, high: float) -> None:
    """BadImage where more than 1 % of the values lie outside, by more than two levels of 8 bits: networks overshoot."""
    if not x.numel():
        return
    least, most = float(x.min()), float(x.max())

    def outside(low: float, high: float) -> float:
        room = slack(low, high)
        if least >= low - room and most <= high + room:
            return 0.0
        return float(((x < low - room) | (x > high + room)).double().mean())

    width = FAR * (high - low)
    if (share := outside(low, high)) > SHARE or least < low - width or most > high + width:
        fits = next((r for r in RANGES if outside(*r) <= SHARE), None)
        remedy = (
            f"range=({fits[0]:g}, {fits[1]:g}) fits" if fits else "none of the three ranges fits: scale or clamp them"
        )
        raise BadImage(
            f"has values from {least:g} to {most:g}, {100 * share:.3g} % of them outside the range ({low:g}, {high:g}) that "
            f"was given; {remedy}"
        )


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
