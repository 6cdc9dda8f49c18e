"""Images in .npy and .npz files, never loaded as a whole."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from fewstep.checks import unknown
from fewstep.eval.images.arrays import Array
from fewstep.eval.images.decode import BadImage
from fewstep.eval.images.image_sets import ImageSet


class Header(NamedTuple):
    """Of an array in a file."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


def headers(path: Path) -> dict[str, Header]:
    """The arrays of an .npz by name, read without their contents."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                info.filename.removesuffix(".npy"): _header(archive.open(info))
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(f"{path} is no readable .npz ({error}); was it written or downloaded whole?") from error


def _header(stream: Any) -> Header:
    read = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
    return Header(*read(stream))


def picture_keys(path: Path) -> list[str]:
    """Names of the arrays in an .npz that can be images: three or four axes."""
    return [name for name, header in headers(path).items() if len(header.shape) in (3, 4)]


def in_file(path: Path, key: str | None = None, **how: Any) -> ImageSet:
    """The images of a .npy or of one array in an .npz: memory-mapped, or inflated as they are read.

    key: of an .npz; arr_0 or the only one with three or four axes where none is given.
    """
    if path.suffix.lower() == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (EOFError, OSError, ValueError) as error:
            raise ValueError(f"{path} is no readable .npy ({error}); was it written or downloaded whole?") from error
        return Array(array, str(path), **how)
    found, fit = headers(path), picture_keys(path)
    if key is None:
        key = "arr_0" if "arr_0" in fit else fit[0] if len(fit) == 1 else None
    if key is None:
        what = f"several arrays that can be images ({', '.join(fit)}): say which, key=" if fit else "no images"
        raise ValueError(f"{path} holds {what}; its arrays are {', '.join(found) or 'none'}")
    if key not in found:
        raise unknown(f"array of {path}", key, found)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{key}.npy")
    array = (
        _mapped(path, info) if info.compress_type == zipfile.ZIP_STORED else _Inflated(path, info.filename, found[key])
    )
    return Array(array, f"{path}:{key}", made_of=(info.file_size, info.CRC), **how)


def _mapped(path: Path, info: zipfile.ZipInfo) -> Any:
    """A member that is not compressed, memory-mapped where it lies in the .zip."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)  # its local header: 30 bytes, the name, and extra fields
        file.seek(info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))))
        shape, fortran, dtype = _header(file)
        if dtype.hasobject or 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


class _Inflated:
    """A compressed member, image by image: forwards it is inflated once, backwards from its start again."""

    def __init__(self, path: Path, member: str, header: Header) -> None:
        self.path, self.shape, self.dtype = path, header.shape, header.dtype
        if header.fortran:
            raise ValueError(f"{path}: {member} is compressed and in Fortran order; write it with numpy.savez")
        self._stream = zipfile.ZipFile(path).open(member)
        _header(self._stream)
        self._start = self._stream.tell()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        size = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        try:
            self._stream.seek(self._start + index * size)
            data = self._stream.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise BadImage(f"cannot be read ({error})") from error
        if len(data) < size:
            raise BadImage("is cut off")
        return np.frombuffer(data, self.dtype).reshape(self.shape[1:])
