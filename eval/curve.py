"""Metrics over network evaluations: several solvers at several nfe on shared seeds, told apart by paired differences.

Every point has been measured on the same seeds, so that group i of one solver's samples and group i of another's started
from the same noise. With g_i what group i adds to a value (Result.groups), the difference of two solvers a and b is

    (value_a - value_b) -+ t sd(g_a - g_b) / sqrt(G),        t: 97.5 % quantile of Student's t with G - 1 degrees,

which is far narrower than either interval alone: most of what varies, varies together. Groups are single images for the
errors to a reference, tenths or so of the set for Frechet distances.

Nothing here samples; fewstep.eval.sweep does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import floor, log10, sqrt
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fewstep import __version__
from fewstep.page import Table, write_page
from fewstep.pictures import Line, plot_lines

from .report import Report, plain, write_json
from .result import Result

# Metrics of which more is better; of all others, less.
HIGHER = frozenset({"is", "is_inf", "precision", "recall", "density", "coverage", "psnr"})


def mean_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, tuple[float, float]]:
    """(mean, its standard error, 95 % interval by Student's t) of at least two independent values."""
    from scipy.special import stdtrit

    values = np.asarray(values, np.float64)
    mean, error = float(values.mean()), float(values.std(ddof=1)) / sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, 0.975)) * error
    return mean, error, (mean - reach, mean + reach)


@dataclass(frozen=True)
class Difference:
    """How much larger a metric is for solver `first` than for `second` at one nfe: value, standard error, 95 % interval."""

    metric: str
    nfe: int
    first: str
    second: str
    value: float
    error: float
    interval: tuple[float, float]

    @property
    def sure(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.interval[0] > 0 or self.interval[1] < 0

    @property
    def better(self) -> str | None:
        """The better solver, or None where they cannot be told apart."""
        if not self.sure:
            return None
        return self.first if (self.value > 0) == (self.metric in HIGHER) else self.second


def difference(a: Result, b: Result) -> tuple[float, float, tuple[float, float]]:
    """(a - b, its standard error, 95 % interval) of one metric measured on the same seeds.

    Raises:
        ValueError: results without groups, or with different numbers of them.
    """
    if len(a.groups) != len(b.groups) or len(a.groups) < 2:
        raise ValueError(
            f"a paired difference of {a.metric} needs the same two or more groups of samples on both sides; got "
            f"{len(a.groups)} and {len(b.groups)}."
        )
    middle, error, (low, _) = mean_interval(np.subtract(a.groups, b.groups))
    value, reach = a.value - b.value, middle - low
    return value, error, (value - reach, value + reach)


@dataclass(frozen=True)
class Point:
    """What was measured of one solver at one number of evaluations."""

    solver: str
    nfe: int
    report: Report
    grid: str = ""


@dataclass(frozen=True)
class Curves:
    """Points of several solvers, as tables, pictures, JSON and one page.

    Attributes:
        points: each (solver, nfe) once; a solver may lack an nfe.
        about: what was sampled and compared with what.
        notes: remarks on the whole; those of the single reports come after them.
    """

    points: Sequence[Point]
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

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

    def best(self, metric: str, nfe: int) -> str | None:
        """The solver with the best value at an nfe; None where nobody was measured."""
        found = {s: result.value for s in self.solvers if (result := self.result(metric, s, nfe)) is not None}
        choose: Callable[..., str] = max if metric in HIGHER else min
        return choose(found, key=found.__getitem__) if found else None

    def difference(self, metric: str, nfe: int, first: str, second: str) -> Difference | None:
        """first - second at one nfe on the same seeds; None where one is missing or has no groups."""
        a, b = self.result(metric, first, nfe), self.result(metric, second, nfe)
        if a is None or b is None or min(len(a.groups), len(b.groups)) < 2:
            return None
        return Difference(metric, nfe, first, second, *difference(a, b))

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

    def table(self, metric: str) -> Table:
        """One row a solver, one column an nfe: value ± half its interval, the best and what equals it marked, the order."""
        orders = [self.order(metric, solver) for solver in self.solvers]
        columns = [self._column(metric, nfe) for nfe in self.nfes]
        if any(orders):
            halves = [None if order is None else order[2][1] - order[0] for order in orders]
            columns.append(shown([order and order[0] for order in orders], halves))
        rows = [[solver, *cells] for solver, *cells in zip(self.solvers, *columns, strict=True)]
        marked = {
            (i, j)
            for i, solver in enumerate(self.solvers)
            for j, nfe in enumerate(self.nfes, 1)
            if self._equals_best(metric, nfe, solver)
        }
        head = ["solver", *(f"nfe {n}" for n in self.nfes), *(["order"] if any(orders) else [])]
        caption = self.label(metric) + (", more is better" if metric in HIGHER else "")
        return Table(head, rows, best=frozenset(marked), caption=caption)

    def _column(self, metric: str, nfe: int) -> list[str]:
        results = [self.result(metric, solver, nfe) for solver in self.solvers]
        halves = [(r.interval[1] - r.interval[0]) / 2 if r and r.interval else None for r in results]
        return shown([None if r is None else r.value for r in results], halves)

    def _equals_best(self, metric: str, nfe: int, solver: str) -> bool:
        """Whether a solver is the best one of an nfe or cannot be told apart from it."""
        best = self.best(metric, nfe)
        apart = None if best is None else self.difference(metric, nfe, solver, best)
        return solver == best or (apart is not None and not apart.sure)

    def remarks(self) -> list[str]:
        """What the tables mean, the notes, and the notes of the reports."""
        methods = {r.method: None for point in self.points for r in point.report.values() if r.method}
        own = (note for point in self.points for note in point.report.notes)
        return [
            "*: the best of its column, and what cannot be told apart from it (the paired 95 % interval of their "
            "difference on shared seeds contains 0)",
            *(f"±: half of the 95 % interval: {method}" for method in methods),
            *self.notes,
            *dict.fromkeys(own),
        ]

    def text(self) -> str:
        """All tables and remarks for a terminal."""
        return "\n".join([*(self.table(metric).text() + "\n" for metric in self.metrics), *self.remarks()])

    def as_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        return {
            "library": f"fewstep {__version__}",
            "about": plain(self.about),
            "notes": list(self.notes),
            "points": [
                {"solver": p.solver, "nfe": p.nfe, "grid": p.grid, "report": p.report.as_dict()} for p in self.points
            ],
            "differences": [
                {**plain(asdict(d)), "better": d.better} for metric in self.metrics for d in self.differences(metric)
            ],
        }

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """The curves as JSON text, written whole to `path` where one is given."""
        return write_json(self.as_dict(), path)

    @classmethod
    def from_json(cls, path: str | PathLike[str]) -> Curves:
        """The curves that `to_json` wrote."""
        told = json.loads(Path(path).read_text())
        points = [Point(p["solver"], p["nfe"], Report.from_dict(p["report"]), p["grid"]) for p in told["points"]]
        return cls(points, told["about"], told["notes"])

    def plot(self, metric: str, path: str | PathLike[str]) -> Path:
        """A PNG of one metric over nfe with its intervals; distances and errors on a logarithmic axis."""
        lines = []
        for solver in self.solvers:
            known = [(n, r) for n in self.nfes if (r := self.result(metric, solver, n)) is not None]
            ends = [r.interval or (r.value, r.value) for _, r in known]
            below = [r.value - low for (_, r), (low, _) in zip(known, ends, strict=True)]
            above = [high - r.value for (_, r), (_, high) in zip(known, ends, strict=True)]
            lines.append(Line(solver, [n for n, _ in known], [r.value for _, r in known], below, above))
        log = metric not in HIGHER and all(y > 0 for line in lines for y in line.y)
        label = self.label(metric)
        plot_lines(lines, Path(path), f"{label}: {self.title}", label, log=log)
        return Path(path)

    @property
    def title(self) -> str:
        """Model and numbers of samples in words."""
        counts = sorted({r.n for p in self.points for r in p.report.values() if r.n is not None})
        return f"{self.about.get('model', 'solvers')}, " + " and ".join(f"{n} samples" for n in counts)

    def pictures(self, folder: str | PathLike[str]) -> list[Path]:
        """One PNG a metric, curve-METRIC.png in a folder."""
        return [self.plot(metric, Path(folder) / f"curve-{metric}.png") for metric in self.metrics]

    def to_html(self, path: str | PathLike[str], pictures: Sequence[Path]) -> None:
        """One page, written whole: tables, pictures (PNG files, put inside) and remarks."""
        told = [f"{name}: {value}" for name, value in plain(self.about).items()]
        tables = [self.table(metric) for metric in self.metrics]
        write_page(
            Path(path), f"Solvers on {self.title}", [". ".join(told)] if told else [], tables, pictures, self.remarks()
        )


def shown(values: Sequence[float | None], halves: Sequence[float | None]) -> list[str]:
    """Values with half their intervals, all with as many decimals as the narrowest interval deserves (two digits of it)."""
    narrowest = min((half for half in halves if half), default=None)
    if narrowest is None:
        return ["-" if value is None else f"{value:.6g}" for value in values]
    decimals = max(0, 1 - floor(log10(narrowest)))
    cells = []
    for value, half in zip(values, halves, strict=True):
        reach = "" if half is None else f" ± {half:.{decimals}f}"
        cells.append("-" if value is None else f"{value:.{decimals}f}{reach}")
    return cells
