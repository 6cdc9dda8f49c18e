"""Learned tables beside fixed recipes: what a paired comparison found, as text, JSON or a page."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fewstep.output.files import write_text
from fewstep.output.page import Table, write_page
from fewstep.samplers.learned.report.showing import ratio
from fewstep.samplers.learned.tasks.guard import certain

HEAD = ("nfe", "guidance", "best fixed recipe", "rms / median", "learned", "rms ratio", "median ratio", "worse in")


def cells(
    nfe: int,
    guidance: float | None,
    recipe: str,
    fixed: Mapping[str, float],
    learned: Mapping[str, float],
    test: Mapping[str, Any],
) -> list[str]:
    """What stands under HEAD for one table: errors as `summary` has them, ratios as `compared` has them."""
    place = [str(nfe), "-" if guidance is None else f"{guidance:g}", recipe]
    errors = [f"{e['rms']:.4g} / {e['median']:.4g}" for e in (fixed, learned)]
    return [*place, *errors, ratio(test["rms"]), ratio(test["median"]), f"{100 * test['worse']:.0f} %"]


@dataclass(frozen=True)
class Row:
    """A learned table against the best fixed recipe of one solver.

    learned, fixed: rms, mean, median, tail95 of the errors. test: ratios with intervals, share of worse samples. more: other
    metrics, {name: (learned, fixed)}.
    """

    nfe: int
    guidance: float | None
    recipe: str
    learned: dict[str, float]
    fixed: dict[str, float]
    test: dict[str, Any]
    more: dict[str, tuple[float, float]]

    @property
    def verdict(self) -> str:
        """ "better" or "worse" beyond doubt, "equal", or "open"."""
        if self.test["rms"]["interval"] == [1.0, 1.0]:
            return "equal"
        if certain(self.test):
            return "better"
        return "worse" if any(self.test[of]["interval"][0] > 1 for of in ("gain", "rms")) else "open"


@dataclass(frozen=True)
class Comparison:
    """All rows, and what they are of."""

    rows: tuple[Row, ...]
    about: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def worse(self) -> bool:
        """Whether any table is certainly worse than a fixed recipe."""
        return any(row.verdict == "worse" for row in self.rows)

    def table(self) -> Table:
        """One line a row."""
        extra = list(self.rows[0].more)
        head = [*HEAD, *(f"{name}, fixed / learned" for name in extra), "verdict"]
        lines = []
        for row in self.rows:
            own = cells(row.nfe, row.guidance, row.recipe, row.fixed, row.learned, row.test)
            more = [f"{row.more[name][1]:.4g} / {row.more[name][0]:.4g}" for name in extra]
            lines.append([*own, *more, row.verdict])
        return Table(head, lines, names=3)

    def text(self) -> str:
        """The table, and what it is of."""
        return "\n".join([self.table().text(), self._said(), *(f"note: {note}" for note in self.notes)])

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Everything, exactly, as JSON text; written whole to `path` where one is given."""
        listed = [{**asdict(row), "verdict": row.verdict} for row in self.rows]
        told = {**self.about, "notes": list(self.notes), "worse": self.worse, "rows": listed}
        text = json.dumps(told, indent=1, allow_nan=False)
        if path is not None:
            write_text(path, text + "\n")
        return text

    def to_html(self, path: str | os.PathLike[str], pictures: Sequence[Path] = ()) -> None:
        """The table as a page, with pictures (PNG files) inside it; written whole."""
        said, title = [self._said()], f"A learned solver against fixed recipes on {self.about['model']}"
        write_page(Path(path), title, said, [self.table()], pictures, self.notes)

    def _said(self) -> str:
        return (
            "{samples} seeds from {seed} of {model}, error to {reference}; fixed recipes are the best of their solver on "
            "these seeds; ratios learned / fixed with 95 % intervals"
        ).format(**self.about)
