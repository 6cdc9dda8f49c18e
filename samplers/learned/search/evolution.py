"""Choices of a solver, its switches and a grid: all there are, and which to run next.

A choice is one value on each axis. What was run teaches a cheap predictor (ridge regression of the logarithm of the error on
values and pairs of values); children of the best so far are ranked by it, and only the promising ones are run. Nothing is run
twice, so that a budget as large as the space is a complete enumeration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from fewstep.samplers.building.names import solver_of
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

FIRST, CHILDREN, RUNS, RIDGE = 24, 64, 8, 0.3


@dataclass(frozen=True)
class Choice:
    """A solver, its options and a grid with options, as sorted pairs."""

    solver: str
    options: tuple[tuple[str, Any], ...]
    grid: str
    shape: tuple[tuple[str, Any], ...] = ()

    def words(self) -> tuple[tuple[str, Any], ...]:
        """(axis, value) of every decision."""
        return (("solver", self.solver), *self.options, ("grid", (self.grid, self.shape)))


def space(solvers: Sequence[str], grids: Sequence[Any], switches: Mapping[str, Sequence[Any]]) -> list[Choice]:
    """Every choice, in a fixed order: of the switches, a solver takes those that are options of it."""
    found: dict[Choice, None] = {}
    for name in solvers:
        own = {switch: values for switch, values in switches.items() if switch in solver_of(name)[0].options}
        own = {switch: [tuple(v) if isinstance(v, list) else v for v in values] for switch, values in own.items()}
        for values in product(*own.values()):
            for grid in grids:
                kind, shape = (grid, {}) if isinstance(grid, str) else grid
                options = tuple(zip(own, values, strict=True))
                found[Choice(name, options, kind, tuple(sorted(shape.items())))] = None
    return list(found)


class _Evolution:
    """Which choices to run next, given what those before were worth."""

    def __init__(self, choices: list[Choice], rng: np.random.Generator):
        self.choices, self.rng = choices, rng
        self.place = {choice: i for i, choice in enumerate(choices)}
        self.errors: dict[int, float] = {}
        self.tables: dict[int, Tableau] = {}
        words = list(dict.fromkeys(word for choice in choices for word in _features(choice)))
        column = {word: j for j, word in enumerate(words)}
        self.features = [[column[word] for word in _features(choice)] for choice in choices]
        self.width = len(words)

    @property
    def best(self) -> int:
        """The choice of least error; the first of equal ones."""
        return min(self.errors, key=lambda i: (self.errors[i], i))

    def next(self, most: int) -> list[int]:
        """A few choices that were not run: spread at first, then children of the best that the predictor likes."""
        open_ones = [i for i in range(len(self.choices)) if i not in self.errors]
        if not self.errors:
            return sorted(self.rng.permutation(open_ones)[: min(FIRST, most)].tolist())
        children = dict.fromkeys(i for i in self._children() if i not in self.errors)
        fresh = self.rng.permutation(open_ones)[:RUNS].tolist()
        pool = list(dict.fromkeys([*children, *fresh]))
        predicted = self._predictor()
        ranked = sorted(pool, key=lambda i: (predicted[self.features[i]].sum(), i))
        picked = ranked[: max(1, RUNS - 2)]  # and two that no prediction speaks for
        return list(dict.fromkeys([*picked, *fresh[:2]]))[:most]

    def _children(self) -> Iterator[int]:
        """Crossings of two of the best, one value changed by a random choice's: only those that exist."""
        best = sorted(self.errors, key=lambda i: (self.errors[i], i))[:12]
        for _ in range(CHILDREN):
            a, b = (self.choices[best[int(k)]] for k in self.rng.integers(0, len(best), 2))
            other = self.choices[int(self.rng.integers(len(self.choices)))]
            grid = (a, b, other)[int(self.rng.integers(3))]
            options = dict(a.options)
            for name, value in (b if self.rng.random() < 0.5 else other).options:
                if name in options and self.rng.random() < 0.5:
                    options[name] = value
            child = Choice(a.solver, tuple(options.items()), grid.grid, grid.shape)
            if self.rng.random() < 0.3:
                child = Choice(other.solver, other.options, child.grid, child.shape)
            if child in self.place:
                yield self.place[child]

    def _predictor(self) -> Array:
        """Weights of the features: ridge regression of log errors on all that was run."""
        ran = [i for i in self.errors if np.isfinite(self.errors[i])]
        weights = np.zeros(self.width)
        if not ran:
            return weights
        X = np.zeros((len(ran), self.width))
        for row, i in enumerate(ran):
            X[row, self.features[i]] = 1.0
        y = np.log([max(self.errors[i], 1e-300) for i in ran])
        gram = X @ X.T + RIDGE * np.eye(len(ran))  # as many unknowns as were run
        return np.asarray(X.T @ np.linalg.solve(gram, y - y.mean()))


def _features(choice: Choice) -> list[Any]:
    """Decisions and pairs of decisions."""
    words = choice.words()
    return [*words, *combinations(words, 2)]
