"""What a problem has spent of network evaluations, and what it may spend."""

from __future__ import annotations


class Spent(Exception):
    """There are fewer network evaluations left than the next thing takes. Nothing of it was done."""


class Purse:
    """Counts network evaluations, samples times calls. limit: they never become more; None: as many as it takes."""

    limit: int | None = None
    _spent = 0

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
