"""Pieces of a batch beside one another on a CPU, a thread each.

One call that shares every operation out among the cores makes them wait for each other hundreds of times; pieces meet once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from threading import Barrier
from typing import TypeVar

import torch

Given = TypeVar("Given")
Made = TypeVar("Made")


class Threads:
    """`count` of them, each of which computes alone; with one, all is done by the caller's."""

    def __init__(self, count: int) -> None:
        self.count = count

    def map(self, function: Callable[[Given], Made], pieces: Sequence[Given]) -> list[Made]:
        """function(piece) of each, in their order, with gradients where the caller has them.

        What one raises is raised when all have come to rest.
        """
        if self.count < 2 or len(pieces) < 2:
            return [function(piece) for piece in pieces]
        graded = torch.is_grad_enabled()

        def work(piece: Given) -> Made:
            with torch.set_grad_enabled(graded):  # which torch keeps for every thread by itself
                return function(piece)

        begun = [self._pool.submit(work, piece) for piece in pieces]
        try:
            return [one.result() for one in begun]
        finally:
            for one in begun:
                one.cancel()
            wait(begun)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        cores, together = torch.get_num_threads(), Barrier(self.count)
        pool = ThreadPoolExecutor(self.count, initializer=torch.set_num_threads, initargs=(1,))
        list(pool.map(lambda _: together.wait(), range(self.count)))  # every thread has begun
        torch.set_num_threads(cores)  # what they set for themselves is also what torch gives to threads to come
        return pool


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out, on whatever device."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
    )


def surviving(halve: Callable[[], bool], work: Callable[[], Made]) -> Made:
    """work(), again after each halving of the pieces while memory runs out; what it raises where there is no half."""
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or not halve():
                raise
        if torch.cuda.is_available():  # out here the error and all that its frames held are gone
            torch.cuda.empty_cache()
