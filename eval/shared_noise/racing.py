"""Which of many to try where time is short: all on a few images, the better half of each column on twice as many, and so on.

    block          4, 4, 8, 16, ... images until there are no more
    column         all that was tried at one nfe; after a block it keeps its better half, by the mean error on all images so
                   far, but never fewer than KEPT

so that every block costs about as much as the one before. The error of a solver on a grid is nearly a product of what the
solver does and of what the grid does: first the first solver is tried on every grid, then the others on the best grids.

Reference: Non-stochastic Best Arm Identification and Hyperparameter Optimization; Jamieson, Talwalkar; 2016; arXiv:1502.07943.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import exp, inf, log

from fewstep.samplers.pipeline.contenders import Contender

FIRST, KEPT = 4, 4  # images that all are looked at on; cells that a column keeps
LEAST = 2  # that are tried however short the time is
SHARE = 1 / 3  # of the time that its reference leaves, for the first block: the later ones take twice as much together

Cell = tuple[str, int]  # a contender at an nfe


def blocks(seeds: range, first: int = FIRST) -> list[range]:
    """The seeds in blocks of first, first, 2 first, 4 first ..."""
    ends = [0, min(first, len(seeds))]
    while ends[-1] < len(seeds):
        ends.append(min(2 * ends[-1], len(seeds)))
    return [seeds[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]


class Race:
    """The cells that are still in it. seconds: None runs everything on all images in one block."""

    def __init__(
        self,
        names: Sequence[Contender],
        nfes: Sequence[int],
        seconds: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.names, self.alive = list(names), {n: list(names) for n in nfes}
        self.seconds, self.clock, self.began = seconds, clock, clock()
        self.tried: set[Contender] = set()
        self.done = 0  # blocks
        self.until = seconds  # since the beginning, for this block

    def rounds(self, seeds: range) -> Iterator[range]:
        """The blocks, while there is time for one."""
        for block in [seeds] if self.seconds is None else blocks(seeds):
            if self.done and self.late:
                return
            yield block
            self.done, self.until = self.done + 1, self.seconds

    def groups(self, means: Mapping[Cell, float]) -> Iterator[list[Contender]]:
        """Who runs in this block, in turn; means: mean errors of the cells so far, read again before each group."""
        if self.done:
            yield self._best_first(means)
        elif self.seconds is None:
            yield self.names
        else:
            files = [name for name in self.names if name.nfes is not None]
            solvers = [name for name in self.names if name.nfes is None]
            lead = [name for name in solvers if _solver(name) == _solver(solvers[0])]
            yield [*files, *lead]
            yield self._by_grid([name for name in solvers if name not in lead], means)

    def running(self, group: Iterable[Contender]) -> Iterator[tuple[Contender, list[int]]]:
        """(who, at which nfe) of a group, until the time of this block is spent; who is left out of the first one is told."""
        if self.seconds is not None and not self.done and not self.tried:
            spent = self.clock() - self.began
            self.until = spent + SHARE * max(0.0, self.seconds - spent)
        for name in group:
            if self.late and (self.done or len(self.tried) >= LEAST):
                return
            self.tried.add(name)
            yield name, [n for n, column in self.alive.items() if name in column]

    @property
    def untried(self) -> list[Contender]:
        """Who never ran."""
        return [name for name in self.names if name not in self.tried]

    @property
    def late(self) -> bool:
        """Whether the time of this block is spent."""
        return self.until is not None and self.clock() - self.began > self.until

    def halve(self, means: Mapping[Cell, float]) -> None:
        """Every column keeps its better half."""
        if self.seconds is None:
            return
        for n, column in self.alive.items():
            ranked = sorted((one for one in column if (one, n) in means), key=lambda one: means[one, n])
            self.alive[n] = ranked[: max(KEPT, (len(ranked) + 1) // 2)]

    def _best_first(self, means: Mapping[Cell, float]) -> list[Contender]:
        """All that is left in some column, by the best place it has in one."""
        places: dict[Contender, int] = {}
        for n, column in self.alive.items():
            for place, name in enumerate(sorted(column, key=lambda one: means.get((one, n), inf))):
                places[name] = min(place, places.get(name, place))
        return sorted(places, key=places.__getitem__)

    def _by_grid(self, waiting: Sequence[Contender], means: Mapping[Cell, float]) -> list[Contender]:
        """Those that wait, by the error that somebody had on their grid."""
        of_grid: dict[str | None, list[float]] = {}
        for name in self.names:
            errors = [means[name, n] for n in self.alive if (name, n) in means]
            if errors:
                of_grid.setdefault(name.grid, []).append(_middle(errors))
        return sorted(waiting, key=lambda name: min(of_grid.get(name.grid, [inf])))


def _solver(name: str) -> str:
    """A name without its grid."""
    return name.partition(" on ")[0]


def _middle(errors: Iterable[float]) -> float:
    """Geometric mean."""
    logs = [log(max(e, 1e-30)) for e in errors]
    return exp(sum(logs) / len(logs))
