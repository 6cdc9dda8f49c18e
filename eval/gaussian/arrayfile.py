"""Archives of arrays, .npz: written whole and sealed; read bounded and without running code, whoever made them."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from fewstep.output.files import whole
from fewstep.output.seal import AGAIN, SEAL, Damaged, changed, digest_of_arrays

# An array may take so many bytes when it is inflated, or so many times what it takes in the file: features compress to
# halves, what is made to fill a memory to thousandths.
BYTES, TIMES = 256 << 20, 32


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as .npz, whole, with the sha256 of all of them as one more."""
    seal = np.array(digest_of_arrays(arrays))
    with whole(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **{**arrays, SEAL: seal})  # type: ignore[arg-type]


def members(path: Path, remedy: str = AGAIN) -> dict[str, zipfile.ZipInfo]:
    """What an archive holds, by the names of its arrays. Damaged where it cannot be read."""
    try:
        if not path.is_file():
            raise OSError("it is no ordinary file")
        with zipfile.ZipFile(path) as archive:
            return {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    except Exception as error:  # a zip that is none raises what it likes
        raise unreadable(path, error, remedy) from error


def arrays_in(path: Path, wanted: Collection[str] | None = None, remedy: str = AGAIN) -> dict[str, np.ndarray]:
    """The arrays of an .npz, or those that are wanted where it has no seal.

    Damaged: they are not as they were written, or would take far more memory than the file.
    """
    infos = members(path, remedy)
    names = set(infos) if wanted is None or SEAL in infos else set(infos) & set(wanted)
    for name in names:
        _bounded(path, infos[name], remedy)
    found = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in names & set(arrays.files):
                found[name] = arrays[name]
                if not isinstance(found[name], np.ndarray):
                    raise ValueError(f"{name} is no array")
    except Exception as error:  # as above: of numpy, zipfile, zlib, lzma ...
        raise unreadable(path, error, remedy) from error
    if SEAL in found and str(found[SEAL]) != digest_of_arrays(found):
        raise changed(path, remedy)
    if SEAL not in found and any(name.startswith(SEAL) for name in found):
        raise changed(path, remedy)
    return found


def _bounded(path: Path, info: zipfile.ZipInfo, remedy: str) -> None:
    if info.file_size > max(BYTES, TIMES * info.compress_size):
        raise Damaged(
            f"{path}: {info.filename} would take {info.file_size >> 20} MiB of {info.compress_size >> 10} KiB in the file, "
            f"which features and moments never do; numpy.savez writes what is meant to. {remedy}"
        )


def unreadable(path: Path, error: Exception, remedy: str = AGAIN) -> Damaged:
    """The sentence for a file that is none."""
    lines = str(error).splitlines()
    return Damaged(
        f"{path} cannot be read as .npz ({lines[0] if lines else type(error).__name__}): is the file whole? {remedy}"
    )
