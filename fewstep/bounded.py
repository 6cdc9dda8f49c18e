"""A cache that forgets what has not been asked for longest once all that it holds is larger than it may be."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
MEBIBYTE = 2**20


class Bounded(Generic[P, T]):
    """A function of hashable arguments that keeps its results, `most` bytes of them in all.

    size: bytes of a result; one that is larger than `most` is made anew each time. Threads may share it.
    """

    # An entry of a table of 4 rows and one of 1,000 differ by a factor of 250: a number of entries bounds no memory.

    def __init__(self, function: Callable[P, T], size: Callable[[T], int], most: int):
        functools.update_wrapper(self, function)
        self._function, self._size, self.most = function, size, most
        self._kept: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.held = 0  # bytes

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (args, tuple(sorted(kwargs.items())))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        result = self._function(*args, **kwargs)  # not under the lock: others go on meanwhile
        size = self._size(result)
        with self._lock:
            if key in self._kept:  # another thread was faster: all hold the same object
                return self._kept[key][0]
            if size <= self.most:
                self._kept[key] = (result, size)
                self.held += size
                while self.held > self.most:
                    self.held -= self._kept.popitem(last=False)[1][1]
        return result

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self.held = 0


def bounded(most: int, size: Callable[[Any], int]) -> Callable[[Callable[P, T]], Bounded[P, T]]:
    """Decorator: keep results, at most `most` bytes of them, each `size(result)`."""
    return lambda function: Bounded(function, size, most)
