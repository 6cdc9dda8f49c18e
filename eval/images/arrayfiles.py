"""Images in .npy and .npz files, never loaded as a whole."""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.checks import unknown
from fewstep.eval.images.arrays import Array
from fewstep.eval.images.decode import LIMIT, BadImage, Header, check_size, npy_header, whole_npy
from fewstep.eval.images.image_sets import ImageSet


def headers(path: Path) -> dict[str, Header]:
    """The arrays of an .npz by name, read without their contents."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                info.filename.removesuffix(".npy"): npy_header(archive.open(info))
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
    except Exception as error:  # of zipfile, numpy and what they inflate with: anything
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return ValueError(f"{path} is no readable {path.suffix.lower()} ({reason}); was it written or downloaded whole?")


def picture_keys(path: Path) -> list[str]:
    """Names of the arrays in an .npz that can be images: three or four axes."""
    return [name for name, header in headers(path).items() if len(header.shape) in (3, 4)]


def in_file(path: Path, key: str | None = None, limit: int = LIMIT, **how: Any) -> ImageSet:
    """The images of a .npy or of one array in an .npz: memory-mapped, or inflated as they are read.

    key: of an .npz; arr_0 or the only one with three or four axes where none is given. limit: MiB that one image may take.
    """
    if path.suffix.lower() == ".npy":
        try:
            with path.open("rb") as stream:
                whole_npy(stream, path.stat().st_size)
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:
            raise _unreadable(path, error) from error
        _check_one(path, array, limit)
        return Array(array, str(path), **how)
    found, fit = headers(path), picture_keys(path)
    if key is None:
        key = "arr_0" if "arr_0" in fit else fit[0] if len(fit) == 1 else None
    if key is None:
        what = f"several arrays that can be images ({', '.join(fit)}): say which, key=" if fit else "no images"
        raise ValueError(f"{path} holds {what}; its arrays are {', '.join(found) or 'none'}")
    if key not in found:
        raise unknown(f"array of {path}", key, found)
    _check_one(path, found[key], limit)
    info = _sound(path, f"{key}.npy", found[key])
    array = (
        _mapped(path, info) if info.compress_type == zipfile.ZIP_STORED else _Inflated(path, info.filename, found[key])
    )
    return Array(array, f"{path}:{key}", made_of=(info.file_size, info.CRC), **how)


def _check_one(path: Path, found: Any, limit: int) -> None:
    """ValueError where one image of an array would take more than the limit, or where they are no numbers."""
    if found.dtype.hasobject:
        raise ValueError(f"{path} holds objects of Python, which could run code; images are numbers")
    try:
        check_size(math.prod(found.shape[1:]), limit)
    except BadImage as error:
        raise ValueError(f"an image of {path} {error}") from error


def _sound(path: Path, member: str, header: Header) -> zipfile.ZipInfo:
    """What the archive tells of a member, all of which was read once: its length and check sum are right. Else ValueError."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            npy_header(stream)
            length, size = 0, math.prod(header.shape) * header.dtype.itemsize
            while piece := stream.read(1 << 18):
                length += len(piece)
            if length != size:
                raise ValueError(f"{member} has {length} bytes and tells of {size}")
            return archive.getinfo(member)
    except Exception as error:
        raise _unreadable(path, error) from error


def _mapped(path: Path, info: zipfile.ZipInfo) -> Any:
    """A member that is not compressed, memory-mapped where it lies in the .zip."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)  # its local header: 30 bytes, the name, and extra fields
        file.seek(info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))))
        shape, fortran, dtype = npy_header(file)
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


class _Inflated:
    """A compressed member, image by image: forwards it is inflated once, backwards from its start again."""

    def __init__(self, path: Path, member: str, header: Header) -> None:
        self.path, self.shape, self.dtype = path, header.shape, header.dtype
        if header.fortran:
            raise ValueError(f"{path}: {member} is compressed and in Fortran order; write it with numpy.savez")
        self._stream = zipfile.ZipFile(path).open(member)
        npy_header(self._stream)
        self._start = self._stream.tell()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        size = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        try:
            self._stream.seek(self._start + index * size)
            data = self._stream.read(size)
        except Exception as error:  # of zipfile and what it inflates with
            raise BadImage(f"cannot be read ({str(error) or type(error).__name__})") from error
        if len(data) < size:
            raise BadImage("is cut off")
        return np.frombuffer(data, self.dtype).reshape(self.shape[1:])
