"""Images in files: a folder with all below it, a .zip (never extracted), or a list of paths."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from fewstep.eval.classes.labels import of_folders
from fewstep.eval.images.decode import (
    LIMIT,
    LOSSY,
    SUFFIXES,
    BadImage,
    check_size,
    checked_range,
    contents_of,
    decode,
)
from fewstep.eval.images.image_sets import ImageSet, digest

LOOKED_INTO = 16  # files of a folder by which copies are told from others
# What lies beside images and is none; files of other suffixes may have been meant, and are told when they are left out.
_BESIDE = (
    "",
    ".json",
    ".jsonl",
    ".txt",
    ".csv",
    ".tsv",
    ".md",
    ".html",
    ".xml",
    ".yaml",
    ".yml",
    ".log",
    ".npz",
    ".pt",
    ".py",
)


def opened(path: Path, **how: Any) -> ImageSet:
    """The images of a folder, a .zip or one file."""
    if path.is_dir():
        return Folder(path, **how)
    if path.suffix.lower() == ".zip" and path.is_file():
        return Zip(path, **how)
    if path.suffix.lower() in SUFFIXES:
        return Paths([path], str(path), **how)
    raise ValueError(f"{path} is no folder, .zip, .npz or .npy, nor an image ({', '.join(SUFFIXES)})")


class Files(ImageSet):
    """Images by file name; a subclass defines how the bytes of one are had.

    Args:
        name: what holds the files.
        files: their names.
        range: of floats in .npy files.
        limit: MiB that one image may take.
    """

    parallel = anywhere = True

    def __init__(
        self, name: str, files: Sequence[str], range: Any = None, skip_bad: bool = False, limit: int = LIMIT
    ) -> None:
        if not files:
            raise ValueError(f"{name} holds no images ({', '.join(SUFFIXES)})")
        if range is not None:
            checked_range(range, "floats")
        super().__init__(name, len(files), skip_bad=skip_bad)
        self.files, self.range, self.limit = files, range, limit
        self.lossy = self._lossy()

    @abstractmethod
    def contents(self, file: str) -> bytes:
        """The whole file."""

    def label(self, index: int) -> str:
        return f"{self.files[index]} in {self.name}"

    @property
    def labels(self) -> Any:
        """The folders that the files lie in."""
        return of_folders(self.files)

    def image(self, index: int) -> Tensor:
        file = self.files[index]
        told: set[str] = set()
        found = decode(self._read(file), suffix(file), self.range, self.limit, told)
        if told:
            self._first.add(index)
        return found

    def _read(self, file: str) -> bytes:
        try:
            return self.contents(file)
        except BadImage:
            raise
        except Exception as error:  # of zipfile and what it inflates with: anything, lack of memory too
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise BadImage(f"cannot be read ({reason})") from error

    def _lossy(self) -> bool | None:
        """JPEG by suffix; of webp files, which may be either, the first is asked; of other formats that may be, nobody."""
        if any(suffix(file) in LOSSY for file in self.files):
            return True
        if any(suffix(file) in (".avif", ".jxl", ".jp2", ".j2k") for file in self.files):
            return None
        webp = next((file for file in self.files if suffix(file) == ".webp"), None)
        try:
            return webp is not None and b"VP8 " in self._read(webp)
        except BadImage:
            return None


class Paths(Files):
    """Files by their paths, in the order given."""

    def __init__(self, paths: Sequence[Any], name: str | None = None, root: Path | None = None, **how: Any) -> None:
        self.root = root or Path()
        super().__init__(name or f"a list of {len(paths)} files", [str(path) for path in paths], **how)

    def contents(self, file: str) -> bytes:
        return contents_of(self.root / file, self.limit)

    @property
    def fingerprint(self) -> str:
        found = ((file, self._stat(file)) for file in self.files)
        return digest([(file, stat.st_size, stat.st_mtime_ns) for file, stat in found])

    @property
    def content(self) -> str:
        """Names and sizes, and the bytes of a few: a copy has other times."""
        some = [self.files[i] for i in range(0, len(self.files), -(-len(self.files) // LOOKED_INTO))]
        sizes = [(file, self._stat(file).st_size) for file in self.files]
        return digest(sizes, *(contents_of(self.root / file, self.limit) for file in some))

    def _stat(self, file: str) -> os.stat_result:
        try:
            return (self.root / file).stat()
        except OSError as error:
            raise ValueError(f"{file} in {self.name} cannot be read ({error.strerror or error})") from error


class Folder(Paths):
    """All images of a folder and of those below it, linked ones too, in natural order; hidden ones are left out."""

    def __init__(self, path: Path, **how: Any) -> None:
        super().__init__(images_among(_below(path), str(path)), str(path), path, **how)


class Zip(Files):
    """The images in a .zip; every process opens it for itself."""

    def __init__(self, path: Path, **how: Any) -> None:
        self.path = path
        self._open: tuple[int, zipfile.ZipFile] | None = None
        try:
            names = [info.filename for info in self.archive.infolist() if not info.is_dir()]
        except Exception as error:  # a zip that is none raises what it likes
            raise ValueError(f"{path} is no readable .zip ({error}); was it downloaded whole?") from error
        super().__init__(str(path), images_among(names, str(path)), **how)

    @property
    def archive(self) -> zipfile.ZipFile:
        """Open in this process."""
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), zipfile.ZipFile(self.path))
        return self._open[1]

    def contents(self, file: str) -> bytes:
        info = self.archive.getinfo(file)
        check_size(info.file_size, self.limit)  # no more than that is inflated, whatever there is
        return self.archive.read(info)

    @property
    def fingerprint(self) -> str:
        infos = map(self.archive.getinfo, self.files)
        return digest([(info.filename, info.file_size, info.CRC) for info in infos])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}


def suffix(file: str) -> str:
    """Of a name, in small letters."""
    return PurePosixPath(file).suffix.lower()


def natural(file: str) -> tuple[Any, ...]:
    """Sorting key by which 2.png comes before 10.png, folder by folder."""
    parts = (re.split(r"([0-9]+)", part) for part in PurePosixPath(file).parts)
    return [[int(s) if k % 2 else s for k, s in enumerate(part)] for part in parts], file


def images_among(names: Iterable[str], where: str) -> list[str]:
    """The images by their suffixes, in natural order. What is left out and may have been meant is warned of, by suffix.

    Hidden files, and what some systems put beside the real ones, are neither.
    """
    wanted, left = [], Counter[str]()
    for file in names:
        if any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(file).parts):
            continue
        if suffix(file) in SUFFIXES:
            wanted.append(file)
        elif suffix(file) not in _BESIDE:
            left[suffix(file)] += 1
    if left:
        told = ", ".join(f"{count} {name}" for name, count in left.most_common(8))
        if not wanted:
            raise ValueError(f"{where} holds no images ({', '.join(SUFFIXES)}), but {told}: save them as .png")
        warnings.warn(f"{where}: files left out, not read as images: {told}", stacklevel=4)
    return sorted(wanted, key=natural)


def _below(root: Path) -> Iterator[str]:
    """Names of files relative to root, each folder visited once however it is linked."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} in {root} cannot be listed ({error.strerror}): allow it, or take it away")

    seen = set()
    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        yield from ((Path(folder) / file).relative_to(root).as_posix() for file in files)
