"""oss: the grid by dynamic programming with the solver that is shipped, whose state at a node carries its whole history."""

from __future__ import annotations

from dataclasses import replace

import torch

from fewstep.checks import whole
from fewstep.samplers.artefact.corrections import on_times
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.learned.search.shortest_path import teacher_nodes
from fewstep.samplers.learned.search.solver_states import TAPER, Search, _open
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.table.tableau import Tableau


def _check(start: Tableau) -> None:
    """ValueError for a table whose steps are not rows of numbers along its grid."""
    reason = ""
    if start.stochastic:
        reason = "it draws noise, and a single state cannot be compared with the teacher's"
    elif start.elementwise or not all(isinstance(form, str) for form in start.forms):
        reason = "its weights differ between the elements of a sample"
    elif start.jumps or start.constant:
        reason = "it does more than step from node to node"
    if reason:
        raise ValueError(
            f"method 'oss' cannot run {start.name}: {reason}. Give it a solver such as dpmpp_2m, unipc or heun, or learn "
            "this one's grid by 'ld3', 'ays' or 'dmn'"
        )


@learner(
    "oss",
    learns=("grid",),
    reference="Optimal Stepsize for Diffusion Sampling; Pei et al.; 2025; arXiv:2503.21774",
)
@torch.no_grad()
def oss(
    task: Task, start: Tableau, *, nodes: int | None = None, samples: int = 64, beam: int = 1, variants: bool = False
) -> Tableau:
    """The grid on which this very solver stays nearest to the teacher, by dynamic programming over its states.

    Needs no gradients. Network evaluations a sample: nodes x steps for solvers of one call a step; for others, whose
    calls within a step depend on where it ends, half of nodes^2 a step.

    Args:
        nodes: of the teacher to choose from, ends included; default 40, or 16 for several calls a step. samples: training
            samples. beam: states kept at each node; 1 is the published search. variants: try other rules for the order
            of the last steps, and keep the best on validation.

    Raises:
        ValueError: a solver with noise or with weights by element, too few nodes, a teacher without states.
    """
    _check(start)
    whole("beam", beam, hint="It counts the states that are kept at a node")
    groups = tuple(start.groups)
    steps = len(boundaries(start)) - 1
    nodes = max(40 if max(groups) == 1 else 16, steps + 1) if nodes is None else nodes
    chosen = teacher_nodes(task, nodes, steps)
    options = dict(start.options)
    key = ("oss", start.name, repr(sorted(_open(options).items())), len(chosen), samples, beam, task.train)
    if key not in task.memo:
        task.memo[key] = Search(task, start, chosen, samples, beam)
    search: Search = task.memo[key]
    tapers = [options[TAPER]] if TAPER in options else []
    if variants and tapers:
        tapers += [t for t in (True, False) if t != tapers[0]]
    found = []
    for extra in [{TAPER: taper} for taper in tapers] or [{}]:
        own = {**options, **extra}
        best = search.ways(groups, own)[0]
        found.append(on_times(replace(start, options=own), search.times[list(best.path)]))
    return found[0] if len(found) == 1 else min(found, key=task.offer)
