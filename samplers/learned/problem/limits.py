"""What a problem may take: network evaluations in all, and samples at once."""

from __future__ import annotations

import re
from typing import Any

BYTES = {"b": 1} | {f"{p}{b}": (1000 if b == "b" else 1024) ** k for k, p in enumerate("kmgt", 1) for b in ("b", "ib")}


class Spent(Exception):
    """There are fewer network evaluations left than the next thing takes. Nothing of it was done."""


class Limits:
    """Counts network evaluations, samples times calls.

    limit: they never become more; None: as many as it takes. most: samples that the network is asked about at once; None: a
    batch. What is drawn does not depend on it.
    """

    limit: int | None = None
    most: int | None = None
    batch_size: int
    _spent = 0
    _pieces: dict[tuple[int, ...], Any]

    @property
    def spent(self) -> int:
        """Network evaluations so far."""
        return self._spent

    @spent.setter
    def spent(self, count: int) -> None:
        """Raises Spent, before the network is asked, where they would become more than `limit`."""
        if count > self._spent:
            self.afford(count - self._spent)
        self._spent = count

    def afford(self, count: int) -> None:
        """Raises Spent where so many more are too many."""
        if self.limit is not None and self._spent + count > self.limit:
            raise Spent(f"{count} network evaluations more, and {self.limit - self._spent} of {self.limit} are left")

    def halve(self) -> bool:
        """Half as many samples at once, since there was no memory for them; False where it is one already."""
        largest = max((len(one.seeds) for pieces in self._pieces.values() for one in pieces), default=self.batch_size)
        self.most = (self.most or min(largest, self.batch_size)) // 2
        self._pieces.clear()
        return self.most > 0


def bytes_of(memory: int | str, what: str = "`memory`") -> int:
    """24e9, "24GB" or "24GiB" -> bytes. ValueError for others."""
    found = re.fullmatch(r"([0-9.e+]+) *([a-z]*)", str(memory).strip().lower())
    number = number_of(found[1]) if found and (found[2] in BYTES or not found[2]) else None
    if number is None or number <= 0 or isinstance(memory, bool):
        raise ValueError(f"{what} is a size such as '24GB', or a number of bytes; got {memory!r}")
    assert found is not None
    return int(number * BYTES.get(found[2], 1))


def number_of(text: str) -> float | None:
    """A number, None for what is none."""
    try:
        return float(text)
    except ValueError:
        return None
