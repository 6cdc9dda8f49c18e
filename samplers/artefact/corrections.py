"""A table as its base solver plus corrections, and both moved: to other nodes, another schedule, between two tables.

At equal lam two schedules differ by the size S = alpha + sigma of the state alone, x' = (S' / S) x, and x0 and eps are the
same. So a correction is kept in units of S,

    C = (W - W_base) S_from / S_to,        W' = W_base' + C S'_to / S'_from,

where S_to and S_from belong to the nodes of what a row writes (carry, input) and of what it reads (carry, input; 1 for
outputs and noises). Where lam is kept and the base solver is one in lam, W' is W in other units: same samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fewstep.samplers.building.compiling import compile_path
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.building.solver_entry import SOLVERS
from fewstep.samplers.schedule.base import Array, NoiseSchedule
from fewstep.samplers.schedule.outputs import form_pair
from fewstep.samplers.table.tableau import Tableau

CARRY, INPUT, M = 0, 1, 2  # columns of W
DISTINCT = 1e-9  # of the whole way, by which two boundaries differ at least
DIGITS = 9  # of weights that are compared: libraries of functions differ in the last bits


def on_times(table: Tableau, times: Array, schedule: NoiseSchedule | None = None) -> Tableau:
    """The base solver of a table on other step boundaries, as many as it has: no corrections, the usual model times."""
    on = table.schedule if schedule is None else schedule
    made = compile_path(
        SOLVERS[table.name], on, times, table.groups, None, table.options, landings=table.jumps or None, nfe=table.nfe
    )
    return made if table.begins == 1 else replace(made, begins=begun(on, float(times[0])))


def begun(schedule: NoiseSchedule, t: float) -> float:
    """What takes x_T to the state at t, as far as the noise goes: sigma_t / sigma_max."""
    return float(schedule.sigma(t) / schedule.sigma(schedule.t_max))


def base_of(table: Tableau) -> Tableau:
    """The base solver of a table on the table's own boundaries."""
    return on_times(table, boundaries(table))


def widened(table: Tableau, history: int) -> Tableau:
    """The same table with room for `history` outputs, at least as many as it has."""
    return table.widened(history)


def same_weights(table: Tableau, base: Tableau) -> bool:
    """Whether two tables have the same rows, but for rounding and unused history."""
    mine, own = (widened(t, max(table.history, base.history)).W for t in (table, base))
    return mine.shape == own.shape and np.allclose(mine, own, rtol=1e-9, atol=1e-11)


def same_model_times(table: Tableau, base: Tableau) -> bool:
    """Whether two tables show the network the same times."""
    return table.nfe == base.nfe and np.allclose(table.model_times, base.model_times, rtol=1e-9, atol=1e-12)


def table_hash(table: Tableau) -> str:
    """sha256 of forms and weights to 9 decimals, for tables that should be equal on every machine."""
    W = np.round(table.W, DIGITS) + 0.0  # no -0.0
    head = json.dumps([table.name, list(map(str, table.forms)), W.shape])
    return hashlib.sha256(head.encode() + np.ascontiguousarray(W).tobytes()).hexdigest()


def corrections(table: Tableau, base: Tableau | None = None) -> Array:
    """C above, the shape of W.

    Raises:
        ValueError: a table that is no correction of its base: other stages, registers or forms.
    """
    _movable(table)
    base = base_of(table) if base is None else base
    base, table = widened(base, table.history), widened(table, base.history)
    if not np.allclose(base.times, table.times, rtol=1e-9, atol=1e-12):
        raise _immovable(table, "stages elsewhere than its base")
    _same_layout(table, base, np.ones_like(table.W))
    to, read = _sizes(table)
    return np.asarray((table.W - base.W) * read / to)


def with_corrections(base: Tableau, C: Array, history: int, claims: tuple[str, ...] = ()) -> Tableau:
    """W' above, with the strongest of the claims that it proves."""
    if not C.any():
        return base
    base = widened(base, history)
    to, read = _sizes(base)
    W = base.W + C * to / read
    for claim in claims:
        try:
            return replace(base, W=W, conserves=claim)
        except ValueError:
            continue
    return replace(base, W=W, conserves="")


def _sizes(table: Tableau) -> tuple[Array, Array]:
    """S of what rows write, (nfe, 2, 1, ...), and read, (nfe, 1, R, ...). A carry stands at the start of its step."""
    S = table.nodes.S
    ends = np.cumsum((0, *table.groups))
    anchor = S[ends[np.searchsorted(ends, np.arange(table.nfe + 1), side="right") - 1]]
    read = np.ones((table.nfe, 1, table.registers))
    read[:, 0, CARRY], read[:, 0, INPUT] = anchor[:-1], S[:-1]
    cells = (1,) * (table.W.ndim - 3)
    to = np.stack([anchor[1:], S[1:]], 1)
    return to.reshape(table.nfe, 2, 1, *cells), read.reshape(table.nfe, 1, -1, *cells)


def _same_layout(one: Tableau, other: Tableau, C: Array) -> None:
    """ValueError unless the registers that C reads mean the same in two tables."""
    if not C.any():
        return
    if one.W.shape[:3] != other.W.shape[:3] or one.slots != other.slots:
        raise _immovable(one, "different registers")
    if one.constant or other.constant:
        raise _immovable(one, "a constant")
    for k in range(one.nfe):
        for j in range(min(one.history, k + 1)):
            if C[k, :, M + j].any() and not _equal(one.forms[k - j], other.forms[k - j]):
                raise _immovable(one, f"output {k - j} as {one.forms[k - j]} in place of {other.forms[k - j]}")


def _movable(table: Tableau) -> None:
    if table.filters is not None:
        raise _immovable(table, "filters that were learned on its own samples")
    if table.cache is not None:
        raise _immovable(table, "a feature cache that was learned along its own path")


def _immovable(table: Tableau, why: str) -> ValueError:
    return ValueError(f"the corrections of this table of {_title(table)} cannot be moved: it would have {why}")


def _equal(f: object, g: object) -> bool:
    if isinstance(f, str) or isinstance(g, str):
        return f is g or f == g
    pairs = zip(form_pair(f), form_pair(g), strict=True)  # type: ignore[arg-type]
    return all(np.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in pairs)


def remapped(table: Tableau, schedule: NoiseSchedule) -> Tableau:
    """A table on another schedule: every boundary and every model time keeps its lam, the ends become the schedule's own.

    Raises:
        ValueError: boundaries beyond the reach of the schedule, or a table that is no correction of its base.
    """
    _movable(table)
    old, times = table.schedule, boundaries(table)
    if old.has_mean or schedule.has_mean:
        raise ValueError("a table of a mean-reverting schedule belongs to it: learn one for this schedule")
    moved = np.asarray(schedule.t_of_lam(np.clip(old.lam(times), *schedule.lam([schedule.t_max, schedule.t_end]))))
    for i, (was, now) in ((0, (old.t_max, schedule.t_max)), (-1, (old.t_end, schedule.t_end))):
        moved[i] = now if np.isclose(times[i], was, rtol=1e-9, atol=1e-12) else moved[i]
    if (np.diff(moved) > -DISTINCT * (moved[0] - moved[-1])).any():
        raise ValueError(
            f"{table.name}: its boundaries, lam {old.lam(times).round(3).tolist()}, reach beyond {schedule!r}: it cannot be "
            "moved there"
        )
    plans = [_plan(table, on, t) for on, t in ((old, times), (schedule, moved))]
    if plans[0] != plans[1]:
        raise ValueError(
            f"the steps of this table of {_title(table)}, {plans[0]} calls, do not fit {schedule!r}, where they are "
            f"{plans[1]}: it cannot be moved there"
        )
    base, new = base_of(table), on_times(table, moved, schedule)
    history = max(table.history, base.history, new.history)
    C = corrections(widened(table, history), base)
    _same_layout(widened(new, history), widened(table, history), C)
    done = with_corrections(new, C, history, (table.conserves,))
    return replace(done, model_times=_shown(table, base, new))


def _plan(table: Tableau, schedule: NoiseSchedule, times: Array) -> tuple[int, ...]:
    """Calls of each step as the solver itself plans them between these ends."""
    ends = bool(schedule.alpha(times[0]) == 0), bool(schedule.sigma(times[-1]) == 0)
    return SOLVERS[table.name].groups(table.nfe, *ends, table.options)


def _shown(table: Tableau, base: Tableau, new: Tableau) -> Array:
    """Model times of the same lam; usual ones stay usual."""
    low, high = new.schedule.t_min, new.schedule.t_max
    lam = table.schedule.lam(table.schedule.time_of_model(table.model_times))
    same = new.schedule.model_time(np.clip(new.schedule.t_of_lam(lam), low, high))
    usual = np.isclose(table.model_times, base.model_times, rtol=1e-12, atol=0)
    return np.where(usual, new.model_times, same)


def between(low: Tableau, high: Tableau, share: float) -> Tableau:
    """The table a share of the way from one to another, with the same base solver on the same schedule.

    Boundaries are interpolated in lam (in t where it is infinite); corrections, in units of alpha + sigma, and the offsets
    of model times linearly.

    Raises:
        ValueError: tables with different bases, or no corrections of them.
    """
    if not same_base(low, high):
        raise ValueError(
            f"there is nothing between a table of {_title(low)} and one of {_title(high)}: only tables of one solver mix. Take "
            'the nearest, outside="clamp"'
        )
    pair, schedule = (low, high), low.schedule
    ends = [boundaries(t) for t in pair]
    lam = np.stack([schedule.lam(times) for times in ends])
    finite = np.isfinite(lam).all(0)
    times = np.where(finite, schedule.t_of_lam(_mixed(np.where(finite, lam, 0.0), share)), _mixed(ends, share))
    times = np.where(ends[0] == ends[1], ends[0], times)
    new, bases = on_times(low, times), [base_of(t) for t in pair]
    history = max(t.history for t in (*pair, new, *bases))
    C = _mixed([corrections(widened(t, history), base) for t, base in zip(pair, bases, strict=True)], share)
    _same_layout(widened(new, history), widened(low, history), C)
    offsets = [t.model_times - base.model_times for t, base in zip(pair, bases, strict=True)]
    done = with_corrections(new, C, history, (low.conserves,) if low.conserves == high.conserves else ())
    return replace(done, model_times=new.model_times + _mixed(offsets, share))


def _mixed(pair: Sequence[Array] | Array, share: float) -> Array:
    return np.asarray((1 - share) * pair[0] + share * pair[1])


def same_base(one: Tableau, other: Tableau) -> bool:
    """Whether two tables have the same solver, options and steps."""
    return (one.name, one.groups, dict(one.options)) == (other.name, other.groups, dict(other.options))


def _title(table: Tableau) -> str:
    options = ", ".join(f"{k}={v}" for k, v in table.options.items() if not hasattr(v, "metadata"))
    return f"{table.name}({options})"
