"""What a problem may take: network evaluations in all, and samples at once."""

from __future__ import annotations

from typing import Any


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
