"""Metrics over network evaluations as tables, pictures, JSON and a page: `Curves`, which `fewstep.eval.curve` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import floor, log10
from os import PathLike
from pathlib import Path
from typing import Any

from fewstep.eval.report.curve_points import REFERENCE, Cost, Point, Points, Steps
from fewstep.eval.report.evaluation_report import Report
from fewstep.eval.report.jsonfile import plain, read_json, write_json
from fewstep.eval.report.page_data import page_data
from fewstep.eval.report.recommendation import Advice, recommend
from fewstep.output.comparison_page import write_comparison_page
from fewstep.output.page import Table
from fewstep.output.pictures import Line, image_sheet, plot_lines
from fewstep.output.places import kept
from fewstep.output.seal import BY_HAND
from fewstep.samplers.pipeline.contenders import Contender
from fewstep.version import __version__


@dataclass(frozen=True)
class Curves(Points):
    """Points of several solvers, as tables, pictures, JSON and one page.

    Attributes:
        points: each (solver, nfe) once; a solver may lack an nfe.
        about: what was sampled and compared with what.
        notes: remarks on the whole; those of the single reports come after them.
        samples: of a point, (solver, nfe), some images to look at, in the order of the seeds; not kept in JSON.
    """

    def table(self, metric: str) -> Table:
        """One row a solver, one column an nfe: value ± half its interval, the best and what equals it marked, the order."""
        orders = [self.order(metric, solver) for solver in self.solvers]
        columns = [self._column(metric, nfe) for nfe in self.nfes]
        if any(orders):
            halves = [None if order is None else order[2][1] - order[0] for order in orders]
            columns.append(shown([order and order[0] for order in orders], halves))
        rows = [[_named(solver), *cells] for solver, *cells in zip(self.solvers, *columns, strict=True)]
        marked = {
            (i, j)
            for i, solver in enumerate(self.solvers)
            for j, nfe in enumerate(self.nfes, 1)
            if self.equals_best(metric, nfe, solver)
        }
        head = ["solver", *(f"nfe {n}" for n in self.nfes), *(["order"] if any(orders) else [])]
        return Table(head, rows, best=frozenset(marked), caption=self.title(metric))

    def _column(self, metric: str, nfe: int) -> list[str]:
        results = [self.result(metric, solver, nfe) for solver in self.solvers]
        halves = [(r.interval[1] - r.interval[0]) / 2 if r and r.interval else None for r in results]
        return shown([None if r is None else r.value for r in results], halves)

    def recommendations(self, metric: str = "") -> list[Advice]:
        """Which solver to take at each nfe by a metric, the first where none is named; see `recommendation.Advice`."""
        return recommend(self, metric or self.metrics[0])

    def remarks(self) -> list[str]:
        """What the tables mean, the notes, and the notes of the reports."""
        ways: dict[str, dict[str, None]] = {}
        for result in (r for point in self.points for r in point.report.values() if r.method):
            ways.setdefault(result.method, {})[result.label] = None
        own = (note for point in self.points for note in point.report.notes)
        return [
            "*: the best of its column, and what cannot be told apart from it (the paired 95 % interval of their "
            "difference on shared seeds, corrected for how many are compared, contains 0)",
            *(f"±: half of the 95 % interval of {', '.join(labels)}: {method}" for method, labels in ways.items()),
            *self.notes,
            *dict.fromkeys(own),
        ]

    def text(self) -> str:
        """All tables and remarks for a terminal."""
        tables = [self.table(metric).text() + "\n" for metric in self.metrics]
        return "\n".join([*tables, *self.remarks(), "", *(advice.text for advice in self.recommendations())])

    def as_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        return {
            "library": f"fewstep {__version__}",
            "about": plain(self.about),
            "recommendations": [plain(a.as_dict()) for metric in self.metrics for a in self.recommendations(metric)],
            "notes": list(self.notes),
            "points": [
                {
                    "solver": p.solver,
                    "nfe": p.nfe,
                    "grid": p.grid,
                    "cost": None if p.cost is None else asdict(p.cost),
                    "steps": None if p.steps is None else plain(asdict(p.steps)),
                    "report": p.report.as_dict(),
                }
                for p in self.points
            ],
            "differences": [
                {**plain(asdict(d)), "better": d.better} for metric in self.metrics for d in self.differences(metric)
            ],
        }

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """The curves as JSON text, written whole to `path` where one is given."""
        return write_json(self.as_dict(), path)

    @classmethod
    def from_json(cls, path: str | PathLike[str], remedy: str = BY_HAND) -> Curves:
        """The curves that `to_json` wrote. ValueError: JSON of something else, or changed; remedy: what to do then."""
        known = ("library", "about", "recommendations", "notes", "points", "differences")
        return read_json(path, cls.from_dict, known, "Curves.to_json", remedy)

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Curves:
        """The curves that `as_dict` told."""
        points = [
            Point(
                p["solver"],
                p["nfe"],
                Report.from_dict(p["report"]),
                p["grid"],
                Cost(**cost) if (cost := p.get("cost")) else None,  # earlier releases had neither
                Steps(**{name: tuple(of) for name, of in steps.items()}) if (steps := p.get("steps")) else None,
            )
            for p in told["points"]
        ]
        return cls(points, told["about"], told["notes"])

    def plot(self, metric: str, path: str | PathLike[str]) -> Path:
        """A PNG of one metric over nfe with its intervals; distances and errors on a logarithmic axis."""
        lines = []
        for solver in self.solvers:
            known = [(n, r) for n in self.nfes if (r := self.result(metric, solver, n)) is not None]
            ends = [r.interval or (r.value, r.value) for _, r in known]
            below = [r.value - low for (_, r), (low, _) in zip(known, ends, strict=True)]
            above = [high - r.value for (_, r), (_, high) in zip(known, ends, strict=True)]
            lines.append(Line(_named(solver), [n for n, _ in known], [r.value for _, r in known], below, above))
        log = not self.higher_is_better(metric) and all(y > 0 for line in lines for y in line.y)
        plot_lines(lines, Path(path), f"{self.model}: {self.title(metric)}", self.label(metric), log=log)
        return Path(path)

    def pictures(self, folder: str | PathLike[str]) -> list[Path]:
        """One PNG a metric, curve-METRIC.png in a folder, and samples.png where there are samples."""
        drawn = [self.plot(metric, Path(folder) / f"curve-{metric}.png") for metric in self.metrics]
        if self.samples:
            full = [s for s in self.solvers if all((s, n) in self.samples for n in self.nfes)]
            last = [images for (name, _), images in self.samples.items() if name == REFERENCE]
            rows = [(_named(s), [*(self.samples[s, n] for n in self.nfes), *last]) for s in full]
            if rows:
                drawn.append(Path(folder) / "samples.png")
                image_sheet(rows, [*(f"nfe {n}" for n in self.nfes), *[REFERENCE] * len(last)], drawn[-1])
        return drawn

    def leading(self, most: int) -> Curves:
        """The solvers that are best somewhere or cannot be told from it, then those of the best places, `most` in all."""
        first = [name for advice in self.recommendations() for name in (advice.best, *advice.alike)]
        places: dict[str, list[int]] = {name: [] for name in self.solvers}
        for nfe in self.nfes:
            found, sign = self.field(self.metrics[0], nfe), -1 if self.higher_is_better(self.metrics[0]) else 1
            for place, name in enumerate(sorted(found, key=lambda name: sign * found[name].value)):
                places[name].append(place)
        best_first = sorted(places, key=lambda name: min(places[name], default=len(places)))
        chosen = set(list(dict.fromkeys([*first, *best_first]))[:most])
        left = len(self.solvers) - len(chosen)
        notes = [*self.notes, f"{left} more that are behind these are in the files"] if left else self.notes
        return replace(self, points=[p for p in self.points if p.solver in chosen], notes=notes)

    def to_html(
        self, path: str | PathLike[str], pictures: Sequence[Path] = (), theme: str = "auto", command: str = ""
    ) -> None:
        """One page with everything inside, written whole: recommendations, tables, curves, samples, steps.

        theme: "auto", "light" or "dark". command: that makes it again. pictures: not needed; the page draws its own.
        """
        write_comparison_page(path, page_data(self, self.remarks(), command), theme)

    def write(self, out: str | PathLike[str], theme: str = "auto", command: str = "") -> list[Path]:
        """One page where `out` ends in .html; else a folder of pictures, results.json (written first) and report.html."""
        if Path(out).suffix.lower() == ".html":
            kept(out, lambda place: self.to_html(place, (), theme, command))
            return [Path(out)]
        self.to_json(Path(out) / "results.json")
        written = self.pictures(out)
        self.to_html(Path(out) / "report.html", (), theme, command)
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


def _named(solver: str) -> str:
    """For tables and legends; a file that has been read is told by its name alone."""
    return solver.label if isinstance(solver, Contender) else solver
