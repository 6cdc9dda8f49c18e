"""What is shown of an artefact: each table beside the fixed recipe that it began with, and its weights in the result.

The result of a table without noise is  a x_T + sum_k w_k m_k.  w_k is the weight of evaluation k; sum_k |w_k| is how far equal
errors of all evaluations can push the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.corrections import INPUT, M, base_of
from fewstep.samplers.artefact.learned_table import Learned, weights_of_result
from fewstep.samplers.building.compiling import build
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau


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
