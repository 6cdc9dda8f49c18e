"""What was measured of several solvers at several numbers of evaluations on shared seeds: values, differences, orders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL.Image import Image

from fewstep.eval.report.evaluation_report import Report
from fewstep.eval.report.paired_difference import Difference, difference, mean_interval
from fewstep.eval.report.result import PAIRED, Result

REFERENCE = "reference"  # whose samples these are, beside those of solvers


def own_reference(name: str) -> str:
    """Whose samples those of the long run of a solver with noise are."""
    return f"{REFERENCE} of {name}"


@dataclass(frozen=True)
class Cost:
    """What a sample took: network evaluations, seconds (without decoding), bytes at most on a GPU, tensors that are held.

    None: nobody counted.
    """

    nfe: float
    seconds: float | None = None
    memory: int | None = None
    held: int | None = None


@dataclass(frozen=True)
class Steps:
    """Where a table asks the network, and what each answer weighs in the result.

    lam: (nfe + 1,) half log-SNR of each evaluation's input and of the result. weights: (nfe,) of the outputs in the result,
    means over the elements of a sample.
    """

    lam: tuple[float, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """What was measured of one solver at one number of evaluations, what it took, and where it stepped."""

    solver: str
    nfe: int
    report: Report
    grid: str = ""
    cost: Cost | None = None
    steps: Steps | None = None


@dataclass(frozen=True)
class Points:
    """What was measured of several solvers at several nfe, and what follows from it.

    Attributes:
        points: each (solver, nfe) once; a solver may lack an nfe.
        about: what was sampled and compared with what.
        notes: remarks on the whole; those of the single reports come after them.
        samples: of a point, (solver, nfe), some images to look at, in the order of the seeds, and of (REFERENCE, its nfe), of
            a solver with noise of (own_reference(solver), its nfe); not kept in JSON.
    """

    points: Sequence[Point]
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    samples: Mapping[tuple[str, int], Sequence[Image]] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("curves need at least one point; none of the solvers could run at any of the nfe.")
        if len(self._at) < len(self.points):
            raise ValueError("curves have each solver at each nfe once; some point was given twice.")

    @cached_property
    def _at(self) -> dict[tuple[str, int], Report]:
        return {(point.solver, point.nfe): point.report for point in self.points}

    @property
    def solvers(self) -> list[str]:
        """Names in the order given."""
        return list(dict.fromkeys(point.solver for point in self.points))

    @property
    def nfes(self) -> list[int]:
        """All numbers of evaluations, increasing."""
        return sorted({point.nfe for point in self.points})

    @property
    def metrics(self) -> list[str]:
        """Names of everything measured at some point."""
        return list(dict.fromkeys(metric for point in self.points for metric in point.report))

    def result(self, metric: str, solver: str, nfe: int) -> Result | None:
        """One value, None where that solver was not measured there."""
        report = self._at.get((solver, nfe))
        return report[metric] if report and metric in report else None

    def line(self, metric: str, solver: str) -> list[Result]:
        """A solver's values, nfe increasing."""
        found = ((nfe, self.result(metric, solver, nfe)) for nfe in self.nfes)
        return [result for _, result in found if result is not None]

    def label(self, metric: str) -> str:
        """What people call the metric."""
        return next(p.report[metric].label for p in self.points if metric in p.report)

    def higher_is_better(self, metric: str) -> bool:
        """Which way is better, as its results say."""
        return any(p.report[metric].higher_is_better for p in self.points if metric in p.report)

    def best(self, metric: str, nfe: int) -> str | None:
        """The solver with the best value at an nfe; None where nobody was measured."""
        return self.first_of(metric, self.field(metric, nfe))

    def field(self, metric: str, nfe: int, like: str | None = None) -> dict[str, Result]:
        """Values of one column; like: of those that errors are comparable with, which have the same reference as this one."""
        found = {s: result for s in self.solvers if (result := self.result(metric, s, nfe)) is not None}
        if like is None or metric not in PAIRED:
            return found
        return {s: result for s, result in found.items() if self.stochastic(s) == self.stochastic(like)}

    def entrant(self, name: str) -> Mapping[str, Any]:
        """What is known of a solver: label, kind ("fixed", "learned", "stochastic", "adaptive"), solver, grid."""
        known: Mapping[str, Any] = self.about.get("entrants", {}).get(str(name), {})
        return {"label": str(name), "kind": "fixed", "solver": str(name), "grid": None, **known}

    def stochastic(self, name: str) -> bool:
        """Whether it draws noise, so that errors are to a reference of its own."""
        return bool(self.entrant(name)["kind"] == "stochastic")

    def first_of(self, metric: str, found: Mapping[str, Result]) -> str | None:
        """Who is best of some; those that were dropped after fewer images are not, whatever these were like."""
        choose: Callable[..., str] = max if self.higher_is_better(metric) else min
        most = max((result.n or 0 for result in found.values()), default=0)
        whole = {s: result.value for s, result in found.items() if (result.n or 0) == most}
        return choose(whole, key=whole.__getitem__) if whole else None

    def difference(self, metric: str, nfe: int, first: str, second: str, among: int = 2) -> Difference | None:
        """first - second at one nfe on the same seeds; None where one is missing or has no groups. among: of how many."""
        a, b = self.result(metric, first, nfe), self.result(metric, second, nfe)
        if a is None or b is None or min(len(a.groups), len(b.groups)) < 2:
            return None
        return Difference(
            metric, nfe, first, second, *difference(a, b, among), higher_is_better=self.higher_is_better(metric)
        )

    def to_best(self, metric: str, nfe: int, solver: str) -> Difference | None:
        """How far a solver is from the best of its field, with the interval of one comparison among all of that field.

        None where it is the best, or nothing pairs the two.
        """
        field = self.field(metric, nfe, solver)
        best = self.first_of(metric, field)
        return None if best in (None, solver) else self.difference(metric, nfe, solver, str(best), len(field))

    def equals_best(self, metric: str, nfe: int, solver: str) -> bool:
        """Whether a solver is the best of its field, or was measured beside it and cannot be told apart from it."""
        apart = self.to_best(metric, nfe, solver)
        if apart is not None:
            return not apart.sure
        return solver == self.first_of(metric, self.field(metric, nfe, solver))

    def differences(self, metric: str) -> list[Difference]:
        """Those of all pairs of solvers at every nfe."""
        pairs = [(a, b) for k, a in enumerate(self.solvers) for b in self.solvers[k + 1 :]]
        found = (self.difference(metric, nfe, a, b) for nfe in self.nfes for a, b in pairs)
        return [d for d in found if d is not None]

    def order(self, metric: str, solver: str) -> tuple[float, float, tuple[float, float]] | None:
        """(order, standard error, 95 % interval) of an RMSE: minus the slope of its logarithm over that of nfe.

        Each image has its own least squares slope. None for another metric, for fewer than two images or nfe, or where an
        error is exactly zero.
        """
        line = [(n, r) for n in self.nfes if (r := self.result(metric, solver, n)) is not None]
        if metric != "rmse" or len(line) < 2 or len(line[0][1].groups) < 2:
            return None
        errors = np.array([r.groups for _, r in line])
        if not (errors > 0).all():
            return None
        x = np.log([n for n, _ in line])
        return mean_interval(-((x - x.mean()) @ np.log(errors)) / ((x - x.mean()) ** 2).sum())

    def title(self, metric: str) -> str:
        """A metric, of how many samples, and which way is better."""
        counts = sorted({r.n for p in self.points if (r := p.report.get(metric)) and r.n is not None})
        samples = [f"{n} samples" for n in counts]
        return ", ".join(
            [self.label(metric), *samples, "more is better" if self.higher_is_better(metric) else "less is better"]
        )

    @property
    def model(self) -> str:
        return str(self.about.get("model", "a model"))
