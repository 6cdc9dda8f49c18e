"""A folder is one run's at a time: the system's lock on a file in it, which the system takes back however the run ends."""

import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NAME = ".lock"
PATIENCE = 1.0  # seconds: what a killed run had just forked lets go of its copy within that
_held: set[int] = set()  # handles of this process, which processes forked off it let go of: they may outlive it


def _let_go() -> None:
    """In a child: its copies of the handles are closed, so that the lock ends with the process that took it."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def exclusive(folder: str | os.PathLike[str], what: str = "the folder") -> Iterator[None]:
    """The folder, made where it is missing, is this caller's alone until the block ends; ValueError where another has it.

    The lock is the kernel's (flock), so that one left by a killed process is none. The file is removed at the end; who
    opened it in between finds that another lies in its place and takes that. what: of the caller, for the sentence.
    """
    path = Path(folder) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _taken(path, what)
    _held.add(handle)
    try:
        yield
    finally:
        if handle in _held:  # a child that ends the block has let go of it
            _held.remove(handle)
            with suppress(OSError):  # Windows keeps open files
                path.unlink()  # before it is let go: nobody locks a file that is about to disappear
            os.close(handle)


def _taken(path: Path, what: str) -> int:
    """A locked handle of the file at `path`, with who holds it written into it."""
    until = time.monotonic() + PATIENCE
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock(handle)
            if _same(handle, path):
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {time.ctime()}".encode())
                return handle
        except OSError as error:
            holder = _holder(path)
            os.close(handle)
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK):
                raise ValueError(
                    f"{what} {path.parent} lies where files cannot be locked ({error.strerror}): give one on another disk"
                ) from error
            if time.monotonic() < until:
                time.sleep(0.02)
                continue
            raise ValueError(
                f"{what} {path.parent} is in use by another run ({holder}): wait until that has ended, or give another one"
            ) from error
        os.close(handle)


def _same(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    own = os.fstat(handle)
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)


def _holder(path: Path) -> str:
    """What the holder wrote of itself."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200] or "it has just begun"
    except OSError:
        return "it has just begun"


def lock(handle: int) -> None:
    """The system's exclusive lock on an open file, or OSError at once."""
    if sys.platform == "win32":
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
