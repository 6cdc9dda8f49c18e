"""Files are written whole or not at all."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fewstep.output.leftovers import begun, swept


class NotWritten(OSError):
    """A file could not be written; the message names it."""


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well and removed when it does not.

    The folder is made where it is missing; the suffix is kept, so that writers that read it off the name still do. An
    OSError on the way (a full disk, a limit of file sizes) becomes one that names `path`. What a run that was killed left of
    such names is removed an hour later by the next one that writes into the folder.
    """
    target = Path(path)
    temporary: Path | None = None
    handle: int | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = begun(target)
        swept(target.parent.absolute())
        if sys.platform == "win32":  # an open file can be neither renamed nor removed
            os.close(handle)
            handle = None
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes private files; the result is an ordinary one
        os.replace(temporary, target)
    except NotWritten:
        raise
    except OSError as error:
        raise not_written(target, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """A text file, whole, in UTF-8."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def not_written(path: str | os.PathLike[str], error: Exception) -> NotWritten:
    """An error of writing `path`, told by its name."""
    why = error.strerror or error if isinstance(error, OSError) else error
    told = NotWritten(f"{os.fspath(path)} could not be written: {why}. What was there before is as it was")
    told.errno = error.errno if isinstance(error, OSError) else None
    return told
