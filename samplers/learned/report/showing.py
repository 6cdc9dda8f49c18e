"""What a table does, as a person wants to see it: the weight of every evaluation in the result, the steps, the warnings.

The result of a table without noise is  a x_T + sum_k w_k m_k.  w_k is the weight of evaluation k; sum_k |w_k| is how far equal
errors of all evaluations can push the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.output.page import Table
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.corrections import base_of
from fewstep.samplers.artefact.learned_table import Learned, safety, weights_of_result
from fewstep.samplers.building.compiling import build
from fewstep.samplers.learned.problem.clock import Clock
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

INPUT, M = 1, 2
DANGEROUS = 10.0  # weights that make bfloat16's rounding of an output, 0.4 %, a matter of per cents
COARSE = 1.2  # growth of the error under bfloat16 that is worth a warning
WASTED = 1e-3  # of the range of lam: a step so short adds nothing


@dataclass(frozen=True)
class View:
    """One table to be shown, and the fixed recipe it is shown beside, where there is one.

    title: in words. status, report, stages: as in `Learned`. said: warnings that the table itself does not tell.
    """

    title: str
    table: Tableau
    fixed: Tableau | None = None
    status: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)
    stages: Sequence[Any] = ()
    said: tuple[str, ...] = ()


def views(shown: Tableau | Artefact, nfe: int | None = None, guidance: float | None = None) -> list[View]:
    """The tables of an artefact for nfe and guidance, all where nothing is said; a table is shown as it is.

    Raises:
        ValueError: no table there.
    """
    if isinstance(shown, Tableau):
        if nfe not in (None, shown.nfe) or guidance is not None:
            raise ValueError(f"this file is one table of {shown.nfe} evaluations: leave --nfe and --guidance away")
        return [View(f"{shown.name}, nfe {shown.nfe}", shown)]
    found = [t for t in shown.tables if nfe in (None, t.nfe) and guidance in (None, t.guidance)]
    if found:
        return [_view(shown, t) for t in found]
    if nfe is None and len(shown.nfes) > 1 and guidance is not None:
        return [view for n in shown.nfes for view in views(shown, n, guidance)]
    table = shown.table(nfe, guidance)
    said = (
        f"interpolated between the guidance scales {', '.join(f'{g:g}' for g in shown.guidances)}: nobody measured it"
    )
    return [View(f"{table.name}, nfe {table.nfe}, guidance {guidance:g}", table, said=(said,))]


def _view(artefact: Artefact, learned: Learned) -> View:
    moved = "learned_on" in artefact.model
    said = ("moved here from another schedule: nobody measured it on this one",) if moved else ()
    title = f"{learned.tableau.name}, {learned.place}"
    return View(title, learned.tableau, recipe_of(learned), learned.status, learned.report, learned.stages, said)


def recipe_of(learned: Learned) -> Tableau:
    """The fixed recipe that a table began with; its solver on its own times where that cannot be built again."""
    table, base = learned.tableau, learned.base
    how: dict[str, Any] = {"t_start": float(table.times[0]), "t_end": float(table.times[-1]), **base["options"]}
    try:
        return build(base["solver"], table.schedule, table.nfe, base.get("grid"), **how)
    except (ValueError, TypeError):
        return base_of(table)


def weights(table: Tableau) -> Array:
    """(nfe,) weight of every evaluation in the result; means over the elements of a sample."""
    found = weights_of_result(table)
    return np.asarray(found.reshape(len(found), -1).mean(1))


def row_sums(table: Tableau) -> Array:
    """(nfe,) sum of the weights on outputs in every row."""
    W = table.W[:, INPUT, M : M + table.history]
    return np.asarray(W.reshape(*W.shape[:2], -1).mean(-1).sum(1))


def steps(view: View) -> Table:
    """One line an evaluation: where it is, what the network is shown, what becomes of it."""
    table, base = view.table, base_of(view.table)
    shown = table.model_times - base.model_times
    added = row_sums(table) - row_sums(base)
    head = ["call", "t", "lam", "shown", "moved", "weight in result", "row sum", "added"]
    columns: list[Array] = [
        table.times[:-1], table.nodes.lam[:-1], table.model_times, shown, weights(table), row_sums(table), added
    ]  # fmt: skip
    if view.fixed is not None and view.fixed.nfe == table.nfe:
        head.insert(6, "fixed recipe's")
        columns.insert(5, weights(view.fixed))
    rows = [[str(k), *(_number(column[k]) for column in columns)] for k in range(table.nfe)]
    return Table(head, rows, caption="Evaluations")


def _number(value: float) -> str:
    return "." if abs(value) < 1e-12 else f"{value:.5g}"


def measures(view: View) -> Table:
    """Size of the weights, beside the fixed recipe's."""
    tables = [("learned" if view.status else "table", view.table)]
    tables += [] if view.fixed is None else [("fixed recipe", view.fixed)]
    rows = []
    for name, table in tables:
        told, gap = safety(table), safety(table)["smallest_gap"]
        numbers = [told["largest_weight"], told["weights_of_result"]]
        cells = [*(f"{v:.4g}" for v in numbers), "-" if gap is None else f"{gap:.4g}"]
        rows.append([name, *cells, "yes" if told["consistent"] else "no"])
    head = ["", "largest weight", "noise amplification", "smallest gap in lam", "keeps constant x0, eps"]
    return Table(head, rows, caption="Weights")


def figures(view: View) -> Table | None:
    """Errors to the teacher on the three sets of seeds, as they were measured when it was learned."""
    report = view.report
    if not {"learned", "best_fixed"} <= set(report):
        return None
    rows = []
    for label, name in (("learned", "learned"), ("best_fixed", "best fixed recipe")):
        for split, told in report[label].items():
            rows.append([name, split, *(f"{told[m]:.4g}" for m in ("rms", "mean", "median", "tail95"))])
    return Table(["", "seeds", "rms", "mean", "median", "95 % tail"], rows, names=2, caption="Error to the teacher")


def outcome(report: Mapping[str, Any]) -> list[str]:
    """What the guard found, in words."""
    if "test" not in report:
        return []
    test = report["test"]
    ratios = ", ".join(
        f"{name} {ratio(test[key])}" for key, name in (("rms", "rms"), ("median", "median"), ("gain", "mean log"))
    )
    return [
        f"best fixed recipe: {report.get('best_fixed_recipe', 'unknown')}",
        f"error over the best fixed recipe's on {test['samples']} untouched seeds, 95 %: {ratios}",
        f"worse in {100 * test['worse']:.0f} % of them, at worst {test['worst']:.3g} times",
    ]


def ratio(told: Mapping[str, Any]) -> str:
    """A ratio and its interval."""
    low, high = told["interval"]
    return f"{told['ratio']:.3f} [{low:.3f}, {high:.3f}]"


def history(stages: Sequence[Any]) -> list[str]:
    """The stages, one line each."""
    lines = []
    for stage in stages:
        options = ", ".join(f"{k}={v}" for k, v in stage.get("options", {}).items())
        found = "interrupted" if stage.get("interrupted") else f"error {stage['score']:.4g}" if "score" in stage else ""
        lines.append(f"stage {stage['method']}{f' ({options})' if options else ''}: {found}".rstrip(": "))
    return lines


def cautions(view: View) -> list[str]:
    """What somebody who is about to use the table should know."""
    table, told = view.table, safety(view.table)
    found = list(view.said)
    if view.status == "no-gain":
        found.append("no gain was certain on untouched seeds: this table is the best fixed recipe")
    if told["largest_weight"] > DANGEROUS:
        found.append(
            f"weights of up to {told['largest_weight']:.3g}: dangerous where the network computes in bfloat16; learn with a "
            "smaller window or more seeds"
        )
    coarse = view.report.get("size", {}).get("learned", {}).get("bf16", 1.0)
    if coarse > COARSE:
        found.append(f"bfloat16 rounding makes its error {coarse:.3g} times as large")
    low, high = sorted(float(table.schedule.model_time(t)) for t in (table.schedule.t_min, table.schedule.t_max))
    if (table.model_times < low - 1e-9 * high).any() or (table.model_times > high * (1 + 1e-9)).any():
        found.append(f"extrapolated: the network is shown times beyond {low:g} to {high:g}, which it was trained on")
    lam = table.nodes.lam[np.isfinite(table.nodes.lam)]
    if len(lam) > 1 and told["smallest_gap"] < WASTED * (lam[-1] - lam[0]):
        found.append(f"two evaluations are {told['smallest_gap']:.2g} apart in lam: one of them is nearly wasted")
    if any(stage.get("interrupted") for stage in view.stages):
        found.append("learning was interrupted: this is the best of what was found until then")
    return found


def words(view: View) -> list[str]:
    """Status, outcome, stages and warnings."""
    status = [f"status: {view.status}"] if view.status else []
    return [*status, *outcome(view.report), *history(view.stages), *(f"warning: {c}" for c in cautions(view))]


def text(view: View) -> str:
    """All of it for a terminal."""
    shown = [view.title, *words(view), "", str(view.table), "", steps(view).text(), "", measures(view).text()]
    told = figures(view)
    return "\n".join([*shown, *([] if told is None else ["", told.text()])])


def picture(shown: Sequence[View], path: Path) -> None:
    """Two panels a table: where the evaluations are on the log-SNR axis, and the weight of each in the result."""
    from matplotlib.figure import Figure

    from fewstep.output.files import whole

    figure = Figure(figsize=(11.0, 0.5 + 2.7 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 2, squeeze=False, width_ratios=[3, 2])
    for view, (grid, bars) in zip(shown, panels, strict=True):
        _draw_grid(grid, view)
        _draw_weights(bars, view)
    with whole(path) as temporary:
        figure.savefig(temporary, dpi=110, format=path.suffix[1:].lower())


def _lines(view: View) -> list[tuple[str, Tableau, str]]:
    """(label, table, colour), the learned one first."""
    from fewstep.output.pictures import COLOURS

    found = [("learned" if view.status != "no-gain" else "kept" if view.status else "table", view.table, COLOURS[0])]
    return found + ([] if view.fixed is None else [("fixed recipe", view.fixed, COLOURS[1])])


def _draw_grid(axes: Any, view: View) -> None:
    """The boundaries of both, joined where they have as many; below, a tick where the network is told to be."""
    drawn = _lines(view)
    clock = Clock(view.table.schedule, float(view.table.times[0]), float(view.table.times[-1]))
    places = [clock.c(table.times) for _, table, _ in drawn]
    if len(places) == 2 and len(places[0]) == len(places[1]):
        axes.plot(np.stack(places), [[0.0], [-1.0]], color="0.75", linewidth=1.0, zorder=1)
    for row, ((_, table, colour), where) in enumerate(zip(drawn, places, strict=True)):
        axes.plot(where, np.full(len(where), -row), "o", color=colour, markersize=7, zorder=2)
        axes.plot(where[-1], -row, "o", color="white", markersize=3.5, zorder=3)  # the result: no evaluation there
        for k, c in enumerate(where[:-1]):
            if row == 0:
                axes.annotate(str(k), (c, 0), (0, 9), textcoords="offset points", ha="center", fontsize=8)
        if row == 0 and not np.allclose(table.model_times, base_of(table).model_times, rtol=1e-9):
            told = clock.c([table.schedule.time_of_model(tau) for tau in table.model_times])
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
    from tempfile import TemporaryDirectory

    from fewstep.output.page import write_page

    with TemporaryDirectory() as folder:
        drawn = Path(folder) / "tables.png"
        picture(shown, drawn)
        tables, notes = [], []
        for view in shown:
            for table in (steps(view), measures(view), figures(view)):
                if table is not None:
                    caption = f"{view.title}: {table.caption[0].lower()}{table.caption[1:]}"
                    tables.append(Table(table.head, table.rows, table.names, table.best, caption))
            notes += [f"{view.title}: {said}" for said in words(view)]
        write_page(path, title, notes, tables, [drawn])
