"""What a row of a table remembers for the rows after it, where guidance has momentum."""

from __future__ import annotations

from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor


class Memory:
    """The momentum of runs: what a row finds is kept under its step, for as long as the run holds its steps."""

    def __init__(self) -> None:
        self.kept: WeakKeyDictionary[Any, Tensor] = WeakKeyDictionary()

    def gathered(self, step: Any, delta: Tensor, beta: float) -> Tensor:
        """delta + beta M. The first stage of a step leaves M for the other stages, and the sum for the step after."""
        if not hasattr(step, "next"):
            return delta
        before = self.kept.get(step)
        found = delta if before is None else delta + beta * before
        starts = [0, *accumulate(step.tableau.groups)]
        if step.index in starts[:-1]:
            after = step.next
            for _ in range(starts[starts.index(step.index) + 1] - step.index - 1):
                if before is not None:
                    self.kept[after] = before
                after = after.next
            if after is not None:
                self.kept[after] = found.detach()
        return found
