"""A report: the results of one evaluation, what they must be compared under, and the remarks that belong beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

from fewstep.eval.report import remarks
from fewstep.eval.report.jsonfile import plain, read_json, write_json
from fewstep.eval.report.result import Result
from fewstep.output.page import Table, write_page
from fewstep.version import __version__


class Report(Mapping[str, Result]):
    """The results of one evaluation by metric: `report["fid"]`, `float(report["fid"])`, `for name in report`.

    Args:
        results: at least one; each metric once.
        about: what was evaluated against what: anything that JSON can say.
        notes: remarks to be shown with the values; None takes those that follow from the results alone (see remarks.py).

    Raises:
        ValueError: no result, a metric twice, or a value that is not finite.
    """

    def __init__(
        self, results: Sequence[Result], about: Mapping[str, Any] | None = None, notes: Sequence[str] | None = None
    ) -> None:
        if not results:
            raise ValueError("a report needs at least one result; name a metric, for example metrics=('fid',).")
        self._results: dict[str, Result] = {}
        for result in results:
            if result.metric in self._results:
                raise ValueError(f"a report has each metric once; {result.metric!r} was given twice.")
            if not isfinite(result.value):
                raise ValueError(f"{result.label} is {result.value}; look at the features of the samples it came from.")
            self._results[result.metric] = result
        self.about: dict[str, Any] = dict(about or {})
        self.notes = list(remarks.notes(results) if notes is None else notes)

    def __getitem__(self, metric: str) -> Result:
        if metric not in self._results:
            raise KeyError(f"{metric!r} was not measured; this report has {', '.join(self._results)}")
        return self._results[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        return f"Report({'; '.join(map(str, self.values()))})"

    def table(self) -> str:
        """Aligned text: label, features, value, 95 % interval, numbers of images; below it how intervals were found."""
        return "\n".join([self._table().text(), *self._methods(), *(f"note: {note}" for note in self.notes)])

    def _table(self) -> Table:
        rows = [
            [
                r.label,
                ", ".join(r.features),
                f"{r.value:.6g}",
                "-" if r.interval is None else "[{:.6g}, {:.6g}]".format(*r.interval),
                "-" if r.n is None else str(r.n),
                "-" if r.n_real is None else str(r.n_real),
            ]
            for r in self.values()
        ]
        return Table(["metric", "features", "value", "95 % interval", "N", "N reference"], rows, names=2)

    def _methods(self) -> list[str]:
        """How the intervals were found, results of one way in one line."""
        ways: dict[str, list[str]] = {}
        for r in self.values():
            if r.method:
                ways.setdefault(r.method, []).append(r.label)
        return [f"interval of {', '.join(labels)}: {method}" for method, labels in ways.items()]

    def as_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON has: all digits of every number, None for what is not finite."""
        results = [{"label": r.label, **plain(asdict(r))} for r in self.values()]
        return {
            "library": f"fewstep {__version__}",
            "about": plain(self.about),
            "notes": self.notes,
            "results": results,
        }

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """The report as JSON text with a sha256 of its content, written whole to `path` where one is given."""
        return write_json(self.as_dict(), path)

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Report:
        """The report that `as_dict` told."""
        results = []
        for facts in told["results"]:
            known = {name: value for name, value in facts.items() if name != "label"}
            known["interval"] = None if known["interval"] is None else tuple(known["interval"])
            results.append(Result(**{**known, "groups": tuple(known["groups"])}))
        return cls(results, told["about"], told["notes"])

    @classmethod
    def from_json(cls, source: str | PathLike[str]) -> Report:
        """The report in a file, or in a text that `to_json` gave.

        Raises:
            ValueError: JSON of something else, or changed after it was written.
        """
        return read_json(source, cls.from_dict, ("library", "about", "notes", "results"), "Report.to_json")

    def to_html(self, path: str | PathLike[str], pictures: Sequence[Path] = ()) -> None:
        """One page, written whole: the table, what was evaluated, the pictures (PNG files, put inside) and the notes."""
        about = [[name, str(value)] for name, value in plain(self.about).items()]
        tables = [self._table()] + ([Table(["evaluated", ""], about, names=2)] if about else [])
        title = ", ".join(r.label for r in self.values())
        notes = [*self._methods(), *self.notes, f"fewstep {__version__}"]
        write_page(Path(path), title, (), tables, pictures, notes)
