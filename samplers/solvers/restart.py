"""Restart: go down with an ODE solver, and on the way jump back up with fresh noise, several times, in a few intervals.

An interval (points, repeats, low, high) moves the nearest boundary of the main grid to `low`. There, `repeats` times,
noise takes the state up to `high` and the base solver brings it back along `points` Karras levels. Levels are sigma / alpha.
The jump keeps the marginal exactly, so the order is the base's; each one has a noise path of its own, which stays the
same as the grids get finer. (Public code leaves the grid as it is and jumps from its nearest level.)

Reference: Restart Sampling for Improving Generative Processes; Xu, Deng, Cheng, Tian, Liu, Jaakkola; 2023; arXiv:2306.14878.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, log
from typing import Any, NamedTuple

import numpy as np

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.names import checked_options, solver_of
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import Entry, solver
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.solvers.ancestral import with_jumps

# where the automatic interval lies: its low end and its height, as shares of the lam of the grid within +-REACH
DOWN, UP, REACH = 0.72, 0.15, 6.0


class Interval(NamedTuple):
    """points: levels of the sub-grid, both ends included. repeats: jumps. low, high: sigma / alpha; None: automatic."""

    points: int
    repeats: int
    low: float | None = None
    high: float | None = None


def _base(options: Mapping[str, Any]) -> Entry:
    entry = solver_of(options["base"])[0]
    if entry.kind != "tableau" or entry.main:
        raise ValueError(f"restart: `base` must be a solver with a table, other than restart; got {options['base']!r}")
    return entry


def _calls(options: Mapping[str, Any]) -> int:
    entry = _base(options)
    own = checked_options(entry, options["base_options"] or {})
    return entry.calls(own) if callable(entry.calls) else entry.calls


def _intervals(nfe: int, options: Mapping[str, Any]) -> tuple[Interval, ...]:
    """Those asked for, or one with two repeats that take about half of nfe together."""
    asked = options["intervals"]
    if asked is None:
        steps = nfe // (4 * _calls(options))
        return (Interval(steps + 1, 2),) if steps else ()
    if not isinstance(asked, (list, tuple)) or not all(isinstance(i, (list, tuple)) and len(i) == 4 for i in asked):
        raise ValueError(f"restart: `intervals` must be a list of (points, repeats, low, high); got {asked!r}")
    for points, repeats, low, high in asked:
        opt.whole("restart", "points of an interval", points, 10**6, least=2)
        opt.whole("restart", "repeats of an interval", repeats, 10**6)
        low = opt.number("restart", "low end of an interval", low, least=1e-9)
        if opt.number("restart", "high end of an interval", high) <= low:
            raise ValueError(f"restart: an interval goes from low up to high in sigma / alpha; got {low:g}, {high:g}")
    return tuple(Interval(*interval) for interval in asked)


def _main(nfe: int, options: Mapping[str, Any]) -> int:
    """Evaluations left for the way down."""
    calls = _calls(options)
    spent = sum(i.repeats * calls * (i.points - 1) for i in _intervals(nfe, options))
    if nfe <= spent:
        raise ValueError(
            f"restart: the intervals alone spend {spent} evaluations of nfe = {nfe}; give more (about {2 * spent}), or "
            "fewer points or repeats"
        )
    return nfe - spent


@solver(
    "restart", order=2, prediction="eps", stochastic=True, reference=ref.RESTART, calls=_calls, main=_main,
    singular_ends="start end",
)  # fmt: skip
def restart(
    path: Path,
    *,
    base: str = "heun",
    intervals: Sequence[Sequence[float]] | None = None,
    s_noise: float = 1.0,
    base_options: Mapping[str, Any] | None = None,
) -> Solution:
    """Restart: the base solver down, and back up by noise within each interval. Order, and calls a step, of the base.

    nfe = main steps + sum over intervals of repeats (points - 1), in steps of the base. base: any solver with a table;
    base_options: its options. intervals: (points, repeats, low, high) each, e.g. [(3, 10, 0.06, 0.30)], in sigma / alpha;
    default: two repeats at about 70 % of the way, which take half of the evaluations. s_noise: factor on the noise.
    """
    options = {"base": base, "intervals": intervals, "base_options": base_options}
    entry, s_noise = _base(options), opt.number("restart", "s_noise", s_noise, 2.0)
    own = checked_options(entry, {"limiter": path.limiter, **(base_options or {})})
    run = lambda stretch: entry.solution(stretch, own)  # noqa: E731
    if path.landings is None:  # else a run resumed on its way
        path = _expanded(path, _intervals(path.nfe or 2 * sum(path.groups), options), _calls(options))
    return with_jumps(path, run, s_noise)


def _expanded(path: Path, intervals: Sequence[Interval], calls: int) -> Path:
    """The path with the ways up and down of every interval in it."""
    main = list(path.nodes)
    plans: list[list[tuple[Node, ...]]] = [[] for _ in main]
    for interval in intervals:
        k, sub = _way_down(path, interval)
        if plans[k] and plans[k][0][-1] != sub[-1]:
            raise ValueError(
                "restart: two intervals have the same nearest boundary; give more evaluations or one low end"
            )
        main[k] = sub[-1]
        plans[k] += [sub] * interval.repeats
    path = replace(path, nodes=tuple(main), landings=None, nfe=None)
    nodes, groups, landings = [path.nodes[0]], [], {}
    for k, (own, _, t) in enumerate(path.steps(), 1):
        nodes.append(t)
        groups.append(own)
        for sub in plans[k]:
            landings[len(groups) - 1] = nodes[-1]
            nodes[-1:] = sub
            groups += [calls] * (len(sub) - 1)
    return replace(path, nodes=tuple(nodes), groups=tuple(groups), landings=landings)


def _way_down(path: Path, interval: Interval) -> tuple[int, tuple[Node, ...]]:
    """(boundary at which the interval acts, nodes from its high end down to its low end)."""
    inner = {k: node for k, node in enumerate(path.nodes) if k and node.sigma > 0}
    if not inner:
        raise ValueError(
            "restart: the grid has no level between its start and sigma = 0 to jump from; give more evaluations"
        )
    top, bottom = max(path.nodes[0].lam, -REACH), min(path.nodes[-1].lam, REACH)
    low = top + DOWN * (bottom - top) if interval.low is None else -log(interval.low)
    high = low - UP * (bottom - top) if interval.high is None else -log(interval.high)
    if not (path.nodes[0].lam <= high + 1e-9 and low <= path.nodes[-1].lam + 1e-9):
        first, last = (node.rho for node in (path.nodes[0], path.nodes[-1]))
        raise ValueError(
            f"restart: the interval from {exp(-low):.4g} to {exp(-high):.4g} (sigma / alpha) leaves the grid, which goes "
            f"from {first:.4g} to {last:.4g}"
        )
    k = min(inner, key=lambda k: abs(inner[k].lam - low))
    at_end = k == len(path.nodes) - 1  # which stays where it is
    foot = inner[k] if at_end or inner[k].lam == low else _at_lam(path, low)
    roots = np.linspace(exp(-high / 7), exp(-foot.lam / 7), interval.points)[:-1] ** 7
    return k, (*(_at_lam(path, -log(rho)) for rho in roots), foot)


def _at_lam(path: Path, lam: float) -> Node:
    return path.schedule.node(path.schedule.t_of_lam(lam))
