"""What a table does, as a person wants to read it: its steps, the size of its weights, the outcome, the warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fewstep.output.page import Table
from fewstep.samplers.artefact.corrections import base_of
from fewstep.samplers.artefact.learned_table import safety
from fewstep.samplers.learned.report.views import View, row_sums, weights
from fewstep.samplers.schedule.base import Array

DANGEROUS = 10.0  # weights that make bfloat16's rounding of an output, 0.4 %, a matter of per cents
COARSE = 1.2  # growth of the error under bfloat16 that is worth a warning
WASTED = 1e-3  # of the range of lam: a step so short adds nothing


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
    return Table(
        ["", "seeds", "rms", "mean", "median", "95 % tail"],
        rows,
        names=2,
        caption=f"Error to the teacher, {judged(report)}",
    )


def elsewhere(view: View) -> Table | None:
    """Errors in other places than it was learned in, where these were asked for."""
    rows = []
    for row in view.report.get("transfer", ()):
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.3f}"
        rows.append([row["at"], f"{row['learned']:.4g}", f"{row['fixed']:.4g}", ratio])
    head = ["at", "learned", "best fixed recipe", "ratio"]
    return Table(head, rows, caption="Error to the teacher elsewhere, rms of a few seeds") if rows else None


def judged(report: Mapping[str, Any]) -> str:
    """By what errors were measured, where a report says it."""
    return f"judged by {report.get('judged_by', 'latent error')}"


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
        f"worse in {100 * test['worse']:.0f} % of them, at worst {test['worst']:.3g} times; {judged(report)}",
        *(f"by {name}: gain {ratio(told['test']['gain'])}" for name, told in report.get("beside", {}).items()),
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
        why = view.report.get("guard", {}).get("said")
        found.append(
            "no gain was certain on untouched seeds: this table is the best fixed recipe"
            + (f"; the learned one was {why}, and is kept as `refused`" if why else "")
        )
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
    tables = [told for told in (figures(view), elsewhere(view)) if told is not None]
    return "\n".join([*shown, *(line for told in tables for line in ("", told.text()))])
