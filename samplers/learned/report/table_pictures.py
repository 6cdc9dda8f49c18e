"""A table as a picture: where its evaluations are, and the weight of each in the result; alone or on a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fewstep.lazy import optional
from fewstep.output.files import whole
from fewstep.output.page import Table, write_page
from fewstep.output.pictures import COLOURS
from fewstep.samplers.artefact.corrections import base_of
from fewstep.samplers.grids.coordinate import Coordinate
from fewstep.samplers.learned.report.showing import elsewhere, figures, measures, steps, words
from fewstep.samplers.learned.report.views import View, weights
from fewstep.samplers.table.tableau import Tableau


def picture(shown: Sequence[View], path: Path) -> None:
    """Two panels a table: where the evaluations are on the log-SNR axis, and the weight of each in the result."""
    with optional("a picture of a table"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 0.5 + 2.7 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 2, squeeze=False, width_ratios=[3, 2])
    for view, (grid, bars) in zip(shown, panels, strict=True):
        _draw_grid(grid, view)
        _draw_weights(bars, view)
    with whole(path) as temporary:
        figure.savefig(temporary, dpi=110, format=path.suffix[1:].lower())


def _lines(view: View) -> list[tuple[str, Tableau, str]]:
    """(label, table, colour), the learned one first."""
    found = [("learned" if view.status != "no-gain" else "kept" if view.status else "table", view.table, COLOURS[0])]
    return found + ([] if view.fixed is None else [("fixed recipe", view.fixed, COLOURS[1])])


def _draw_grid(axes: Any, view: View) -> None:
    """The boundaries of both, joined where they have as many; below, a tick where the network is told to be."""
    drawn = _lines(view)
    axis = Coordinate(view.table.schedule, float(view.table.times[0]), float(view.table.times[-1]))
    places = [axis.c(table.times) for _, table, _ in drawn]
    if len(places) == 2 and len(places[0]) == len(places[1]):
        axes.plot(np.stack(places), [[0.0], [-1.0]], color="0.75", linewidth=1.0, zorder=1)
    for row, ((_, table, colour), where) in enumerate(zip(drawn, places, strict=True)):
        axes.plot(where, np.full(len(where), -row), "o", color=colour, markersize=7, zorder=2)
        axes.plot(where[-1], -row, "o", color="white", markersize=3.5, zorder=3)  # the result: no evaluation there
        for k, c in enumerate(where[:-1]):
            if row == 0:
                axes.annotate(str(k), (c, 0), (0, 9), textcoords="offset points", ha="center", fontsize=8)
        if row == 0 and not np.allclose(table.model_times, base_of(table).model_times, rtol=1e-9):
            told = axis.c([table.schedule.time_of_model(tau) for tau in table.model_times])
            axes.plot(told, np.full(len(told), 0.45), "|", color=colour, markersize=9, markeredgewidth=1.6)
            axes.annotate("shown", (told[0], 0.45), (-6, -3), textcoords="offset points", ha="right", fontsize=8)
    axes.set_yticks([-row for row in range(len(drawn))], [name for name, _, _ in drawn])
    axes.set_ylim(-len(drawn) + 0.4, 0.8)
    bent = not np.isfinite(view.table.nodes.lam).all()
    axes.set(
        title=view.title, xlabel="half log-SNR, noise to data" + (" (bent where an end is infinite)" if bent else "")
    )
    axes.grid(True, axis="x", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _draw_weights(axes: Any, view: View) -> None:
    drawn = _lines(view)
    width = 0.8 / len(drawn)
    for i, (name, table, colour) in enumerate(drawn):
        at = np.arange(table.nfe) + (i - (len(drawn) - 1) / 2) * width
        axes.bar(at, weights(table), width * 0.94, color=colour, label=name)
    axes.axhline(0.0, color="0.3", linewidth=0.8)
    axes.set_xticks(range(view.table.nfe))
    axes.set(title="weight of each evaluation in the result", xlabel="evaluation")
    axes.grid(True, axis="y", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(drawn) > 1:
        axes.legend(frameon=False, fontsize=9)


def write(shown: Sequence[View], path: Path, title: str) -> None:
    """A picture, or where the name ends in .html a page with tables, warnings and the picture."""
    if path.suffix.lower() != ".html":
        picture(shown, path)
        return
    with TemporaryDirectory() as folder:
        drawn = Path(folder) / "tables.png"
        picture(shown, drawn)
        tables, notes = [], []
        for view in shown:
            for table in (steps(view), measures(view), figures(view), elsewhere(view)):
                if table is not None:
                    caption = f"{view.title}: {table.caption[0].lower()}{table.caption[1:]}"
                    tables.append(Table(table.head, table.rows, table.names, table.best, caption))
            notes += [f"{view.title}: {said}" for said in words(view)]
        write_page(path, title, notes, tables, [drawn])
