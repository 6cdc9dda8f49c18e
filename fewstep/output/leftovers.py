"""What a killed run leaves beside the files that it was writing, and its removal once nobody can be at work on it.

    .NAME-xxxxxxxx.fewstep.json        while NAME.json is being written

Whoever writes such a file holds the system's lock on it, which ends with the process however that ends. A disk of several
machines may keep locks from each other: what was touched within the last hour stays, too.
"""

import os
import re
import sys
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from fewstep.output.exclusive import lock

MARK = ".fewstep"
STALE = 3600.0  # seconds: no file takes as long from one piece that is written to the next
_OURS = re.compile(r"\..*-[a-z0-9_]{8}\.fewstep(\.[^.]*)?")


def begun(target: Path) -> tuple[int, Path]:
    """(handle, path) of a new file beside `target`, of its suffix and locked where the system can."""
    stem = target.stem[:100]  # a name of the longest that there may be leaves room for no more
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{stem}-", suffix=MARK + target.suffix)
    if sys.platform != "win32":  # where a lock would keep the writer away, too
        with suppress(OSError):
            lock(handle)
    return handle, Path(name)


@lru_cache(maxsize=1024)
def swept(folder: Path) -> None:
    """Remove what is stale in a folder; looked at once in a process."""
    if sys.platform == "win32":
        return
    with suppress(OSError), os.scandir(folder) as entries:
        now = os.stat(folder).st_mtime  # by the clock of the disk: something was just made there
        for entry in entries:
            if _OURS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < now - STALE:
                        _removed(entry.path)


def _removed(path: str) -> None:
    """OSError where somebody has the lock."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        lock(handle)
        os.unlink(path)
    finally:
        os.close(handle)
