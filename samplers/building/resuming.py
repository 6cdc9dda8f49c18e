"""A run that begins in the middle, as image to image does: the rest of a table, its solver started afresh."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fewstep.samplers.building.compiling import compile_path
from fewstep.samplers.building.solver_entry import SOLVERS, Entry
from fewstep.samplers.schedule.base import Array, Nodes
from fewstep.samplers.table.tableau import Tableau

CARRY, INPUT, M = 0, 1, 2  # columns of W


def boundaries(table: Tableau) -> Array:
    """Times of the steps' ends, (steps + 1,)."""
    return np.asarray(table.times[np.cumsum((0, *table.groups))])


def resume(table: Tableau, begin: int, entry: Entry | None = None) -> Tableau:
    """What is played from network call `begin` of a table on.

    entry: the solver that compiled it. Its multistep histories start empty, and calls left over from a step that began
    earlier become first-order steps to its boundary. Without one, a table that a solver compiled is compiled again, and any
    other is made by hand: of that the remaining rows are played as they are, see `rest`.
    """
    if begin == 0:
        return table
    if not 0 < begin < table.nfe:
        raise ValueError(f"begin index {begin} is outside 0..{table.nfe - 1}")
    entry = entry or _compiler(table)
    if entry is None:
        return rest(table, begin)
    starts = np.cumsum((0, *table.groups))
    group = int(np.searchsorted(starts, begin, side="left"))
    calls = [*range(begin, starts[group]), *starts[group:-1]]
    groups = (*[1] * (int(starts[group]) - begin), *table.groups[group:])
    times = table.times[[*calls, table.nfe]]
    shown = table.model_times[calls]
    moved = len(groups) - len(table.groups)  # numbers of the steps change by as much
    options = {name: _later(name, value, table, len(groups), entry) for name, value in table.options.items()}
    landings = {step + moved: node for step, node in table.jumps.items() if step + moved >= 0}
    return compile_path(entry, table.schedule, times, groups, shown, options, landings=landings)


def _later(name: str, value: Any, table: Tableau, steps: int, entry: Entry) -> Any:
    """An option for the last so many steps: those of a list that has one value for each step of the table."""
    if name not in entry.per_step or not isinstance(value, list | tuple) or len(value) != len(table.groups):
        return value
    return (*value[:1] * (steps - len(value)), *value[-steps:])


def _compiler(table: Tableau) -> Entry | None:
    """The registered solver that makes exactly this table of its own boundaries; None where there is none.

    A table knows it while nobody has made another out of it; one from a file is compared with what its name would make.
    """
    if isinstance(table.compiled_by, Entry):
        return table.compiled_by
    entry = SOLVERS.get(table.name)
    if entry is None or entry.kind != "tableau" or table.filters is not None:
        return None
    jumps, options = table.jumps or None, table.options
    try:
        own = compile_path(
            entry, table.schedule, boundaries(table), table.groups, None, options, landings=jumps, nfe=table.nfe
        )
    except (ValueError, TypeError):  # options or groups that the solver does not know
        return None
    same = own.W.shape == table.W.shape and np.allclose(own.W, table.W, rtol=1e-9, atol=1e-11)
    return entry if same and own.forms == table.forms else None


def rest(table: Tableau, begin: int) -> Tableau:
    """Rows `begin`, begin + 1, ... of a table, for a state of which nothing but x is known.

    That is the same solver where x stands in both registers (row begin - 1 writes the same into carry and input, or no
    row to come reads carry before writing it) and no row to come reads an output from before.

    Raises:
        ValueError: a row that reads what this run never made, with the places where it could begin.
    """
    if (why := _missing(table, begin)) is not None:
        fine = [str(k) for k in range(1, table.nfe) if _missing(table, k) is None]
        places = f"it can begin at {', '.join(fine)}" if fine else "it can only run from its start"
        raise ValueError(
            f"table {table.name!r} was made by hand and cannot begin at network call {begin}: {why}; {places}. A solver by "
            "name begins anywhere"
        )
    ends = np.cumsum((0, *table.groups))
    group = int(np.searchsorted(ends, begin, side="right")) - 1
    groups = (int(ends[group + 1]) - begin, *table.groups[group + 1 :])
    return replace(
        table,
        nodes=Nodes(*(column[begin:] for column in table.nodes)),
        model_times=table.model_times[begin:],
        W=table.W[begin:],
        filters=None if table.filters is None else table.filters[begin:],
        forms=table.forms[begin:],
        groups=groups,
        cache=None,  # whose features this run has not computed
        spans=None if table.spans is None else table.spans[begin:],
        jumps={step - group: node for step, node in table.jumps.items() if step >= group},
        begins=1.0,
    )


def _missing(table: Tableau, begin: int) -> str | None:
    """What a run from call `begin` would lack; None where it lacks nothing."""
    for k in range(begin, table.nfe):
        for j in range(k - begin + 1, table.history):
            if table.W[k, :, M + j].any() or (table.filters is not None and table.filters[k, 1 + j : 2 + j].any()):
                return f"row {k} reads the output of call {k - j}"
    if np.array_equal(table.W[begin - 1, CARRY], table.W[begin - 1, INPUT]):
        return None
    for k in range(begin, table.nfe):
        if table.W[k, INPUT, CARRY].any() or (table.W[k, CARRY, CARRY].any() and not _keeps(table.W[k])):
            return f"row {k} reads a second register, which is another state there"
        if not table.W[k, CARRY, CARRY].any():
            return None
    return None


def _keeps(W: Array) -> bool:
    """Whether the carry line is the identity."""
    return bool(np.all(W[CARRY, CARRY] == 1.0)) and not W[CARRY, 1:].any()
