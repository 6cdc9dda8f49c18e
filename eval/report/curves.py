"""Metrics over network evaluations: several solvers at several nfe on shared seeds, as tables, pictures, JSON and a page.

Nothing here samples; fewstep.eval.sweep does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import floor, log10
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL.Image import Image

from fewstep import __version__
from fewstep.eval.report.differences import HIGHER, Difference, difference, mean_interval
from fewstep.eval.report.report import Report, plain, write_json
from fewstep.eval.report.result import Result
from fewstep.output.page import Table, write_page
from fewstep.output.pictures import Line, image_sheet, plot_lines
from fewstep.samplers.pipeline.contenders import label as named


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
        samples: of a point, (solver, nfe), some images to look at, in the order of the seeds; not kept in JSON.
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
        rows = [[named(solver), *cells] for solver, *cells in zip(self.solvers, *columns, strict=True)]
        marked = {
            (i, j)
            for i, solver in enumerate(self.solvers)
            for j, nfe in enumerate(self.nfes, 1)
            if self._equals_best(metric, nfe, solver)
        }
        head = ["solver", *(f"nfe {n}" for n in self.nfes), *(["order"] if any(orders) else [])]
        return Table(head, rows, best=frozenset(marked), caption=self.title(metric))

    def apart(self, metric: str) -> Table:
        """How far each solver is from the best one of its column, on shared seeds: difference ± half its interval."""
        columns = []
        for nfe in self.nfes:
            best = self.best(metric, nfe)
            found = [best and self.difference(metric, nfe, solver, best) for solver in self.solvers]
            halves = [(d.interval[1] - d.interval[0]) / 2 if d else None for d in found]
            cells = shown([d.value if d else None for d in found], halves)
            columns.append(["best" if s == best else cell for s, cell in zip(self.solvers, cells, strict=True)])
        rows = [[named(solver), *cells] for solver, *cells in zip(self.solvers, *columns, strict=True)]
        caption = f"{self.label(metric)}: difference to the best, paired by seeds"
        return Table(["solver", *(f"nfe {n}" for n in self.nfes)], rows, caption=caption)

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
        ways: dict[str, dict[str, None]] = {}
        for result in (r for point in self.points for r in point.report.values() if r.method):
            ways.setdefault(result.method, {})[result.label] = None
        own = (note for point in self.points for note in point.report.notes)
        return [
            "*: the best of its column, and what cannot be told apart from it (the paired 95 % interval of their "
            "difference on shared seeds contains 0)",
            *(f"±: half of the 95 % interval of {', '.join(labels)}: {method}" for method, labels in ways.items()),
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
            lines.append(Line(named(solver), [n for n, _ in known], [r.value for _, r in known], below, above))
        log = metric not in HIGHER and all(y > 0 for line in lines for y in line.y)
        plot_lines(lines, Path(path), f"{self.model}: {self.title(metric)}", self.label(metric), log=log)
        return Path(path)

    def title(self, metric: str) -> str:
        """A metric, of how many samples, and which way is better."""
        counts = sorted({r.n for p in self.points if (r := p.report.get(metric)) and r.n is not None})
        samples = [f"{n} samples" for n in counts]
        return ", ".join([self.label(metric), *samples, "more is better" if metric in HIGHER else "less is better"])

    @property
    def model(self) -> str:
        return str(self.about.get("model", "a model"))

    def pictures(self, folder: str | PathLike[str]) -> list[Path]:
        """One PNG a metric, curve-METRIC.png in a folder, and samples.png where there are samples."""
        drawn = [self.plot(metric, Path(folder) / f"curve-{metric}.png") for metric in self.metrics]
        if self.samples:
            full = [s for s in self.solvers if all((s, n) in self.samples for n in self.nfes)]
            rows = [(named(s), [self.samples[s, n] for n in self.nfes]) for s in full]
            drawn.append(Path(folder) / "samples.png")
            image_sheet(rows, [f"nfe {n}" for n in self.nfes], drawn[-1])
        return drawn

    def to_html(self, path: str | PathLike[str], pictures: Sequence[Path]) -> None:
        """One page, written whole: tables, pictures (PNG files, put inside) and remarks."""
        about = [[name, str(value)] for name, value in plain(self.about).items() if value is not None]
        paired = [self.apart(metric) for metric in self.metrics if self.differences(metric)]
        tables = [*map(self.table, self.metrics), *paired, Table(["evaluated", ""], about, names=2)]
        write_page(Path(path), f"Solvers on {self.model}", (), tables, pictures, self.remarks())

    def write(self, out: str | PathLike[str]) -> list[Path]:
        """One page where `out` ends in .html; else a folder of pictures, results.json and report.html."""
        if Path(out).suffix.lower() == ".html":
            with TemporaryDirectory() as folder:
                self.to_html(out, self.pictures(folder))
            return [Path(out)]
        written = self.pictures(out)
        self.to_html(Path(out) / "report.html", written)
        self.to_json(Path(out) / "results.json")
        return [*written, Path(out) / "report.html", Path(out) / "results.json"]


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
