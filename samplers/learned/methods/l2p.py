"""l2p: rows that leave blocks of the network out and take sums of their past features: such a row costs a fraction of a call.

Which rows, and of which groups, is found one after another, each time what costs least error for the work that it saves; the
weights are least squares, and the solver's own are fitted again on top, as the outputs of such rows are others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import log
from typing import Any

import numpy as np
import torch
from torch.nn import Module

from fewstep.checks import whole
from fewstep.samplers.blocks.block_cache import BlockCache, checked_groups
from fewstep.samplers.blocks.block_run import BlockRun
from fewstep.samplers.blocks.finding import inner_blocks, network_of, network_with
from fewstep.samplers.blocks.flops import flops
from fewstep.samplers.blocks.patching import patched
from fewstep.samplers.learned.fitting.feature_weights import FeaturePath, played, weights_for
from fewstep.samplers.learned.fitting.least_squares import RIDGE, check_limits, fitted
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task, score
from fewstep.samplers.run.denoiser import clock
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

TINY = 1e-30
Choice = Callable[[Array], Tableau]  # (nfe, groups) what is left out -> the table


@learner(
    "l2p",
    learns=("coef", "cache"),
    reference="Beyond Fixed Formulas: Data-Driven Linear Predictor for Efficient Diffusion Models; Shen, Huang, Liu, Zou, Cai, "
    "Zheng, Shi, Feng, Zhang; 2026; arXiv:2604.26365; here by least squares along the table's own path, with rows by trial",
)
def l2p(
    task: Task,
    start: Tableau,
    *,
    full: int | None = None,
    blocks: Sequence[Any] | None = None,
    rows: str | Sequence[int] = "greedy",
    window: int = 3,
    ridge: float = RIDGE,
    samples: int = 64,
    search: int = 32,
    refit: bool = True,
    mix: bool = False,
) -> Tableau:
    """The same number of calls, `full` of them of the whole network, the others without the blocks named.

    Args:
        full: rows that compute everything, half of them by default; with several groups, what is left out costs as much less.
        blocks: paths of blocks in the order of their calls, or groups of such; None: the inner ones, see `inner_blocks`.
        rows: "greedy", each row by trial on `search` training samples; "even"; or the numbers of the full rows, 0 among them.
        window: past features of a sum, 1 repeats the last. ridge: of the formula. samples: training samples that weights are
            fitted on, whose features are held. refit: whether the solver's weights are fitted again. mix: matrices over
            channels in the place of weights, which see what comes into the group now: several times nearer, for some work and
            (2 window - 1) channels^2 numbers a row; for one group that returns one tensor.

    A table of nfe calls is compared with the best fixed recipe of as many evaluations as it costs.

    Raises:
        ValueError: rows, blocks or samples that there are not; a table with noise, or a network whose blocks are not found.
    """
    whole("window", window, hint="It counts past features")
    whole("samples", samples, hint="It counts training samples")
    whole("search", search, hint="It counts training samples")
    check_limits(ridge, 1.0, "l2p")
    given = _full_rows(rows, full, start.nfe)
    network, groups = _found(task.problem, blocks)
    if mix and len(groups) > 1:
        raise ValueError(f"l2p: mix=True is for one group of blocks; got {len(groups)}")
    few = replace(task, train=task.train[:samples])
    saved = _saved(task.problem, network, groups, float(start.model_times[0]))
    with patched([network.get_submodule(name) for group in groups for name in group]):
        blank = BlockCache(groups, np.zeros((start.nfe, len(groups), start.nfe)), np.ones(start.nfe))
        path = FeaturePath(few, start, network, blank)
        played(path)

        def made(left_out: Array) -> Tableau:
            weights = weights_for(path.every, left_out, window, ridge)
            return replace(start, cache=BlockCache(groups, weights, 1 - left_out @ saved))

        if isinstance(given, int):
            left_out = _greedy(task, made, (start.nfe - given) * float(saved.sum()), saved, search)
        else:
            left_out = np.ones((start.nfe, len(groups)), bool)
            left_out[given] = False
        if not left_out.any():
            return start
        first = made(left_out)
        assert first.cache is not None
        task.offer(first)
        cache = replace(first.cache, weights=np.zeros_like(first.cache.weights))
        finish = partial(_counted, task.problem, network) if mix else None
        way = FeaturePath(few, start, network, cache, left_out, ridge, mix, finish=finish)
        if refit:
            how: dict[str, Any] = {"window": None, "consistent": True, "ridge": RIDGE, "limit": 10.0, "robust": True}
            second = fitted(few, start, way, **how)
        else:
            played(way)
            second = way.finished(start)
        task.offer(second)
    return min((first, second), key=task.judge)


def _found(problem: Problem, blocks: Sequence[Any] | None) -> tuple[Module, tuple[tuple[str, ...], ...]]:
    """The network that is asked, and the groups of its blocks."""
    asked = problem.part([0]).denoiser
    if blocks is None:
        network = network_of(asked)
        return network, inner_blocks(network)
    if isinstance(blocks, str) or all(isinstance(name, str) for name in blocks):
        blocks = [[blocks] if isinstance(blocks, str) else list(blocks)]
    groups = checked_groups(blocks)
    return network_with(asked, [name for group in groups for name in group]), groups


def _full_rows(rows: Any, full: Any, nfe: int) -> list[int] | int:
    """Numbers of the full rows where they are given or even, else how many there shall be."""
    if rows not in ("greedy", "even"):
        if isinstance(rows, str) or full is not None or 0 not in rows or not set(rows) <= set(range(nfe)):
            raise ValueError(
                f'l2p: `rows` must be "greedy", "even", or numbers of the full rows from 0 to {nfe - 1}, 0 among them, without '
                f"`full`; got {rows!r}, full={full!r}"
            )
        return sorted({int(k) for k in rows})
    count = whole("full", max(1, (nfe + 1) // 2) if full is None else full, 1, nfe, hint="It counts full rows")
    return [round(i * nfe / count) for i in range(count)] if rows == "even" else count


def _saved(problem: Problem, network: Module, groups: tuple[tuple[str, ...], ...], tau: float) -> Array:
    """(groups,) the share of a call that each group makes up, of FLOPs as they are counted in a call of one sample."""
    weights = np.zeros((1 + len(groups), len(groups), 1))
    for g in range(len(groups)):
        weights[1 + g, g] = 1.0
    saved = 1 - _counted(problem, network, BlockCache(groups, weights, np.ones(len(weights))), tau).costs[1:]
    if not (saved > 0).all():
        raise ValueError(
            f"leaving {groups[int(saved.argmin())]} out saves nothing: name other blocks, in the order of their calls"
        )
    return np.asarray(saved)


def _counted(problem: Problem, network: Module, cache: BlockCache, tau: float | None = None) -> BlockCache:
    """The same with what its rows cost in a call of one sample, as FLOPs are counted, the first being whole."""
    part, run, spent = problem.part([0]), BlockRun(cache, network), []
    time = float(problem.schedule.model_time(problem.t_start)) if tau is None else tau
    at = torch.tensor(time, dtype=clock(part.x_T.dtype), device=part.x_T.device)
    part.denoiser.prepare(part.x_T)
    with patched(run.blocks):
        for k in range(len(cache.costs)):
            with run.at(k):
                spent.append(flops(lambda: part.denoiser.call(part.x_T, at)))
    problem.spent += len(part.seeds) * len(spent)
    return replace(cache, costs=np.minimum(np.array(spent) / spent[0], 1.0))


def _greedy(task: Task, made: Choice, target: float, saved: Array, search: int) -> Array:
    """What is left out, one row of one group after another, until as much is saved as there shall be.

    Of all that may go next it is what raises the logarithm of the error least for what it saves.
    """
    parts = task.some_parts(search)
    left_out = np.zeros((task.nfe, len(saved)), bool)
    while True:
        room = target - float((left_out @ saved).sum()) + 1e-9
        open_ = [(k, g) for k, g in zip(*np.nonzero(~left_out), strict=True) if k and saved[g] <= room]
        if not open_:
            return left_out
        tried = {}
        for k, g in open_:
            more = left_out.copy()
            more[k, g] = True
            tried[k, g] = log(max(score(task.errors(made(more), parts)), TINY))
        base = min(tried.values())
        left_out[min(tried, key=lambda at: (tried[at] - base) / saved[at[1]])] = True
