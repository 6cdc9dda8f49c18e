"""A solver whose options differ from step to step: one table for each value, and each step out of the table of its own.

Tables of one solver on one grid differ in weights only, so that a row may follow on rows of another one. Not where a row
leaves in its anchor what the next step goes on with, and not where an option moves the nodes: both are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np

from fewstep.samplers.building.solver_entry import Entry
from fewstep.samplers.table.tableau import Tableau

Build = Callable[[dict[str, Any]], Tableau]


def by_step(build: Build, entry: Entry, options: Mapping[str, Any]) -> Tableau:
    """The table of options some of which are lists, one value a step; that of `build` where none is."""
    lists = {name: list(v) for name, v in options.items() if _by_step(entry, name, v)}
    if not lists:
        return build(dict(options))
    rest = {name: v for name, v in options.items() if name not in lists}
    empty = [name for name, values in lists.items() if not values]
    if empty:
        raise ValueError(f"{entry.name}: `{empty[0]}` is a list with one value a step; got an empty one")
    first = build({**rest, **{name: values[0] for name, values in lists.items()}})
    steps = len(first.groups)
    for name, values in lists.items():
        if len(values) != steps:
            raise ValueError(
                f"{entry.name}: `{name}` is a list with one value a step; got {len(values)} values for {steps} steps"
            )
    if entry.name == "sa_solver":
        return build({**rest, **_of_time(first, lists)})
    choices = list(zip(*lists.values(), strict=True))
    tables = {choice: build({**rest, **dict(zip(lists, choice, strict=True))}) for choice in dict.fromkeys(choices)}
    for table in tables.values():
        _check_alike(first, table, list(lists))
    return spliced([tables[choice] for choice in choices], {**rest, **lists})


def _by_step(entry: Entry, name: str, value: Any) -> bool:
    """Whether an option that is one number or one word is given as several."""
    default = entry.options.get(name)
    return isinstance(value, (list, tuple)) and isinstance(default, (int, float, str)) and not isinstance(default, bool)


def _of_time(table: Tableau, lists: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The tau of SA-Solver, whose correction of a step waits for the next: as a function of the time where a step begins."""
    if set(lists) != {"tau"}:
        raise ValueError(f"sa_solver takes one value a step for `tau` only; got {', '.join(lists)}")
    starts = np.array([table.times[k] for k in (0, *accumulate(table.groups))][:-1])
    return {"tau": lambda t: lists["tau"][int(np.abs(starts - t).argmin())], "tau_at": "step"}


def _check_alike(one: Tableau, other: Tableau, names: Sequence[str]) -> None:
    """ValueError for tables whose rows cannot follow on each other."""
    told = f"{one.name}: {' and '.join(f'`{name}`' for name in names)} cannot differ from step to step: "
    if one.groups != other.groups or not all(np.array_equal(a, b) for a, b in zip(one.nodes, other.nodes, strict=True)):
        raise ValueError(told + "it changes where the network is asked. Take flow_sde, ddim or dpmpp_2m_sde")
    begins = set(accumulate(one.groups))
    changed = {k for k in range(one.nfe) if one.forms[k] != other.forms[k]}
    past = {k - j for t in (one, other) for k in range(t.nfe) for j in range(1, t.history) if t.W[k, :, 2 + j].any()}
    if changed & past or one.filters is not None or one.cache is not None:
        raise ValueError(told + "it changes what rows combine. Take flow_sde, ddim or dpmpp_2m_sde")
    for table in (one, other):
        for k in range(1, table.nfe):
            ended = np.array_equal(table.W[k - 1, 0], table.W[k - 1, 1])
            if k in begins and table.W[k, :, 0].any() and not ended:
                raise ValueError(told + "a step goes on with what the one before left. Take flow_sde or dpmpp_2m_sde")


def spliced(tables: Sequence[Tableau], options: Mapping[str, Any]) -> Tableau:
    """The table whose step i is that of tables[i]."""
    first = tables[0]
    H, Z = max(t.history for t in tables), max(t.slots for t in tables)
    W = np.zeros((first.nfe, 2, 2 + H + Z + first.constant, *first.W.shape[3:]))
    spans = np.full((first.nfe, Z, 3), np.nan)
    forms = list(first.forms)
    k = 0
    for table, calls in zip(tables, first.groups, strict=True):
        h, z, rows = table.history, table.slots, slice(k, k + calls)
        forms[rows] = table.forms[rows]
        W[rows, :, : 2 + h] = table.W[rows, :, : 2 + h]
        W[rows, :, 2 + H : 2 + H + z] = table.W[rows, :, 2 + h : 2 + h + z]
        if first.constant:
            W[rows, :, -1] = table.W[rows, :, -1]
        if table.spans is not None:
            spans[rows, :z] = table.spans[rows]
        k += calls
    conserves = min((t.conserves for t in tables), key=len)
    return replace(
        first, forms=tuple(forms), W=W, spans=spans if Z else None, history=H, slots=Z, conserves=conserves,
        options=dict(options), order=min(t.order for t in tables),
    )  # fmt: skip
