"""How the states before the rows are had again on the way back: kept, made anew from some that were kept, or undone.

    forward(rows, state)   -> (state after the last row, tensors to keep)
    backward(rows, kept)   -> (k, state before row k) for k = last .. first

`advances` counts the network calls made to get states back, beyond those of the sample and of the gradient; `remade` the
states so made that are held at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import ceil, comb, log2, sqrt
from typing import Any

from torch import Tensor

from fewstep.adjoint.exact.rows import Rows, flat, unflat
from fewstep.checks import whole
from fewstep.samplers.run.step import State

Past = Iterator[tuple[int, State]]


class Recall(ABC):
    """A way to have the states again."""

    @abstractmethod
    def forward(self, rows: Rows, state: State) -> tuple[State, list[Tensor]]:
        """Plays all rows."""

    @abstractmethod
    def backward(self, rows: Rows, kept: Sequence[Tensor]) -> Past:
        """The states before the rows, last first."""

    @abstractmethod
    def advances(self, n: int) -> int:
        """Network calls without graph beyond the n of the sample."""

    def remade(self, n: int) -> int:
        """States made anew that are held at once on the way back, beside those kept."""
        return 0


@dataclass(frozen=True)
class Stored(Recall):
    """Every input is kept: one latent a row."""

    def forward(self, rows: Rows, state: State) -> tuple[State, list[Tensor]]:
        kept: list[Tensor] = []
        for k in range(len(rows)):
            kept += [state.input] if rows.linear else flat(state)
            state = rows.advance(k, state)
        return state, kept

    def backward(self, rows: Rows, kept: Sequence[Tensor]) -> Past:
        end = len(kept)
        for k in reversed(range(len(rows))):
            width = 1 if rows.linear else 2 + rows.past[k]
            part, end = kept[end - width : end], end - width
            yield k, rows.blank(k, part[0]) if rows.linear else unflat(part)

    def advances(self, n: int) -> int:
        return 0


@dataclass(frozen=True)
class Segments(Recall):
    """The state before every `size`-th row is kept, sqrt(n) by default; a segment's states are made anew together."""

    size: int | None = None

    def _size(self, n: int) -> int:
        return self.size or ceil(sqrt(n))

    def forward(self, rows: Rows, state: State) -> tuple[State, list[Tensor]]:
        kept: list[Tensor] = []
        for k in range(len(rows)):
            if k % self._size(len(rows)) == 0:
                kept += flat(state)
            state = rows.advance(k, state)
        return state, kept

    def backward(self, rows: Rows, kept: Sequence[Tensor]) -> Past:
        n, size = len(rows), self._size(len(rows))
        end = len(kept)
        for start in reversed(range(0, n, size)):
            width = 2 + rows.past[start]
            states, end = [unflat(kept[end - width : end])], end - width
            for k in range(start, min(start + size, n) - 1):
                states.append(rows.advance(k, states[-1]))
            for i in reversed(range(len(states))):
                yield start + i, states.pop()

    def advances(self, n: int) -> int:
        return n - ceil(n / self._size(n))

    def remade(self, n: int) -> int:
        return min(self._size(n), n) - 1


@dataclass(frozen=True)
class Revolve(Recall):
    """At most `slots` states, placed so that the fewest network calls are repeated (binomial checkpointing).

    Autograd lets go of those that the sample kept only at the end of the way back, beside the `slots` - 1 made anew at most.

    With s slots the n rows from a kept state on cost, the first time they are gone through included,

        P(n, s) = min_m  m + P(n - m, s - 1) + P(m, s),     P(1, s) = 0,     P(n, 1) = n (n - 1) / 2.

    Reference: Algorithm 799: revolve; Griewank, Walther; 2000. `slots`: log2(n) + 1 by default.
    """

    slots: int | None = None

    def _slots(self, n: int) -> int:
        return min(n, self.slots or 1 + ceil(log2(max(n, 2))))

    def forward(self, rows: Rows, state: State) -> tuple[State, list[Tensor]]:
        places, kept = self._places(len(rows)), []
        for k in range(len(rows)):
            if k in places:
                kept += flat(state)
            state = rows.advance(k, state)
        return state, kept

    def _places(self, n: int) -> list[int]:
        """Rows before which states are kept in the first sweep."""
        places, s = [0], self._slots(n)
        while s > 1 and n - places[-1] > 1:
            places.append(places[-1] + best(n - places[-1], s)[1])
            s -= 1
        return places

    def backward(self, rows: Rows, kept: Sequence[Tensor]) -> Past:
        n = len(rows)
        places, stop, end, slots = self._places(n), n, len(kept), self._slots(n)
        for i, start in reversed(list(enumerate(places))):
            width = 2 + rows.past[start]
            state, end = unflat(kept[end - width : end]), end - width
            yield from self._back(rows, state, start, stop, slots - i)
            stop = start

    def _back(self, rows: Rows, state: State, start: int, stop: int, slots: int) -> Past:
        """The states before the rows start .. stop, the first of which is given and fills one of the slots."""
        n = stop - start
        if n == 1:
            yield start, state
            return
        m = best(n, slots)[1]
        middle = state
        for k in range(start, start + m):
            middle = rows.advance(k, middle)
        if slots == 1:  # nothing more can be kept: the way to each state again from the first
            yield start + m, middle
        else:
            yield from self._back(rows, middle, start + m, stop, slots - 1)
        del middle  # its slot is free again
        yield from self._back(rows, state, start, start + m, slots)

    def advances(self, n: int) -> int:
        return best(n, self._slots(n))[0] - self._places(n)[-1]

    def remade(self, n: int) -> int:
        places, slots = self._places(n), self._slots(n)
        return max(depth(b - a, slots - i) for i, (a, b) in enumerate(pairwise([*places, n])))


def best(n: int, slots: int) -> tuple[int, int]:
    """(P, m): fewest advances that give back all states before n rows, and after how many rows to keep the next.

    With r the fewest repetitions that reach n <= C(s + r, s) rows, P = r n - C(s + r, s + 1), and the least m that attains
    it is the one that leaves at most C(s - 1 + r, r) rows behind it and C(s + r - 2, s) before it at least.
    """
    if n <= 1:
        return 0, 0
    r = 1
    while comb(slots + r, slots) < n:
        r += 1
    m = max(1, comb(slots + r - 2, slots), n - comb(slots - 1 + r, r))
    return r * n - comb(slots + r, slots + 1), m


@lru_cache(maxsize=2**14)
def depth(n: int, slots: int) -> int:
    """States beside a given one that are held at once while those before n rows are had again, as `Revolve` does."""
    if n <= 1:
        return 0
    m = best(n, slots)[1]
    return max(1 if slots == 1 else 1 + depth(n - m, slots - 1), depth(m, slots))


def recall_for(method: str, slots: Any) -> Recall | None:
    """The way back of a method's name, if it is one of these; ValueError for slots that make no sense."""
    if slots is not None and method not in ("revolve", "segments"):
        raise ValueError(f'`slots` belongs to method="revolve" and "segments"; got it with {method!r}')
    slots = None if slots is None else whole("slots", slots, hint="It counts states that are held")
    return {"checkpoint": Stored(), "segments": Segments(slots), "revolve": Revolve(slots)}.get(method)
