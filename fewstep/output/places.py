"""Places of results are proved before the work, and a result that cannot go where it was meant to goes elsewhere."""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fewstep.output.leftovers import begun


def prove_file(path: str | os.PathLike[str], name: str) -> None:
    """ValueError where `path`, given as `name` (--out, cache ...), cannot be written; nothing is made or left there."""
    target = Path(path)
    try:
        if target.is_dir():
            raise ValueError(f"{name} {str(path)!r} is a folder: give the name of a file in it")
        if target.exists() and not target.is_file():
            raise ValueError(f"{name} {str(path)!r} is no ordinary file, and only such are written: give another name")
        _tried(target.parent, target.name)
    except OSError as error:
        raise _refused(path, name, error) from error


def prove_folder(path: str | os.PathLike[str], name: str) -> None:
    """The same for a folder in which files are to be written."""
    try:
        _tried(Path(path), "file")
    except OSError as error:
        raise _refused(path, name, error) from error


def _tried(folder: Path, file: str) -> None:
    """A file of a name as `whole` uses it is made and removed in the folder, or in the first above it that is there."""
    there = folder
    while True:
        try:
            os.lstat(there)
            break
        except (FileNotFoundError, NotADirectoryError):
            there = there.parent
    with suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(folder / file)  # a name too long is told of here
    handle, made = begun(there / file)
    os.close(handle)
    os.unlink(made)


def _refused(path: str | os.PathLike[str], name: str, error: OSError) -> ValueError:
    return ValueError(
        f"{name} {os.fspath(path)!r} cannot be written ({error.strerror or error}): give another place, in a folder of yours"
    )


def kept(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """`write(path)`; where that fails, the same to a new name beside it or in the system's folder for temporary files.

    OSError in either case, which says where the result is; KeyboardInterrupt and errors of other kinds pass.
    """
    target = Path(path)
    try:
        write(target)
        return
    except OSError as error:
        failed = error
    for folder in (target.parent, Path(tempfile.gettempdir())):
        try:
            place = Path(tempfile.mkdtemp(prefix=f"{target.stem}-kept-", dir=folder)) / target.name
        except OSError:
            continue
        try:
            write(place)
        except OSError:
            shutil.rmtree(place.parent, ignore_errors=True)
            continue
        raise OSError(f"{failed}. The result is kept: {place}") from failed
    raise OSError(f"{failed}; nor could the result be kept beside it or in {tempfile.gettempdir()}") from failed
