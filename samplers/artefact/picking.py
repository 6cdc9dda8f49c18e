"""Which of an artefact's tables is played for a number of evaluations and a guidance scale, and what stands in beyond them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import log
from typing import Any

import numpy as np

from fewstep.samplers.artefact.corrections import base_of, between, same_base
from fewstep.samplers.artefact.file import nfes
from fewstep.samplers.artefact.learned_table import Learned
from fewstep.samplers.building.compiling import build
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.table.tableau import Tableau


def table_at(
    tables: Sequence[Learned],
    nfe: int | None,
    guidance: float | None,
    outside: str,
    verdicts: Sequence[Mapping[str, Any]] = (),
    cascade: Mapping[str, Any] | None = None,
) -> Tableau:
    """The table for so many evaluations and a guidance scale; `outside` as in `Artefact.table`.

    verdicts: what learning found between two scales: {"nfe", "guidance": [low, high], "at", "holds", ...}.
    cascade: of dynamic compensation, see `ratios/cascade.py`: it has a table where none was learned, within its ranges.
    """
    known = nfes(tables)
    if cascade and nfe is not None and (nfe, guidance) not in [(t.nfe, t.guidance) for t in tables]:
        from fewstep.samplers.ratios.cascade import covers, foretold

        if covers(cascade, nfe, guidance):
            return foretold(cascade, tables[0].tableau.schedule, nfe, guidance)
    if nfe is None and len(known) > 1:
        raise ValueError(f"this artefact has tables for {_listed('nfe', known)}: say which, nfe=")
    if nfe is None or nfe in known:
        return _guided([t for t in tables if nfe in (None, t.nfe)], guidance, outside, verdicts)
    if outside != "base" or isinstance(nfe, bool) or not float(nfe).is_integer() or nfe < 1:
        raise ValueError(
            f"this artefact has no table for nfe {nfe!r}, only for {_listed('nfe', known)}. Learn one, or take its "
            'base solver on the nearest learned grid: outside="base"'
        )
    near = table_at(tables, min(known, key=lambda n: (abs(log(n / nfe)), -n)), guidance, outside, verdicts)
    return build(near.name, near.schedule, int(nfe), boundaries(near), **{"limiter": False, **near.options})


def _guided(
    tables: list[Learned], guidance: float | None, outside: str, verdicts: Sequence[Mapping[str, Any]]
) -> Tableau:
    """Of tables for one nfe, rising in guidance, the one for a guidance scale."""
    known = [t.guidance for t in tables]
    if guidance is None and len(tables) == 1:
        return tables[0].tableau
    if guidance is None:
        raise ValueError(f"this artefact has tables for {_listed('guidance', known)}: say which, guidance=")
    if known == [None]:
        raise ValueError(f"guidance was no part of what this artefact learned; got {guidance!r}: leave it away")
    if guidance in known:
        return tables[known.index(guidance)].tableau
    scales = np.array(known, float)
    above = int(np.searchsorted(scales, guidance))
    nearest = tables[int(np.abs(scales - guidance).argmin())]
    if 0 < above < len(scales):
        low, high = tables[above - 1], tables[above]
        here = {"nfe": low.nfe, "guidance": [low.guidance, high.guidance]}
        fails = [v for v in verdicts if not v["holds"] and {name: v[name] for name in here} == here]
        if fails and outside == "error":
            raise ValueError(_does_not_hold(fails[0], guidance))
        if not fails and (outside == "error" or same_base(low.tableau, high.tableau)):
            share = (guidance - scales[above - 1]) / (scales[above] - scales[above - 1])
            return between(low.movable(), high.movable(), float(share))
    if outside == "error":
        raise ValueError(
            f"guidance {guidance!r} is beyond what this artefact was learned for, {_listed('guidance', known)}: "
            'outside="clamp" takes the nearest table, outside="base" the base solver on its grid'
        )
    return nearest.tableau if outside == "clamp" else base_of(nearest.tableau)


def _does_not_hold(verdict: Mapping[str, Any], guidance: float) -> str:
    low, high = verdict["guidance"]
    errs = verdict.get("interpolated")
    found = (
        f"errs by {errs:.3g} where the nearer errs by {verdict['nearest']:.3g}"
        if errs is not None
        else "cannot be made"
    )
    return (
        f"guidance {guidance!r} lies between {low:g} and {high:g}, where the table between theirs {found}, as was tested when "
        f'it was learned (at {verdict["at"]:g}): learn it there, or outside="clamp" takes the nearest'
    )


def _listed(name: str, values: Iterable[Any]) -> str:
    return f"{name} {', '.join(f'{v:g}' for v in values)}"
