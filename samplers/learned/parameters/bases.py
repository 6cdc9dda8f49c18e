"""What each parameter adds to a table, and how far it may: the axes along which `Knobs` turn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.artefact.corrections import CARRY, INPUT, M
from fewstep.samplers.learned.playing.arithmetic import anchor, directions, shared_lines
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau
from fewstep.samplers.table.together import since


def coef_basis(start: Tableau, base: Tableau, window: int, consistent: bool) -> Tensor:
    """(n, nfe, 2, R): what each coefficient knob adds to W."""
    found, both, closed = [], shared_lines(base), since(start)
    for k in range(start.nfe):
        first = int(closed[k])  # newer outputs are asked for together with the row that would read them
        scale = max(float(np.abs(base.W[k, INPUT, M : M + start.history]).max()), 1e-12)
        for direction in directions(start, k, min(window + first, start.history), consistent, first).T:
            basis = np.zeros_like(start.W)
            for line in (CARRY, INPUT) if both[k] else (INPUT,):
                basis[k, line, M + first : M + first + len(direction)] = scale * direction
            found.append(basis)
    return torch.from_numpy(np.stack(found) if found else np.zeros((0, *start.W.shape)))


def state_basis(base: Tableau) -> Tensor:
    """(nfe, nfe, 2, R): relative changes of the weight of the state that each row starts from."""
    both = shared_lines(base)
    found = np.zeros((base.nfe, *base.W.shape))
    for k in range(base.nfe):
        for line in (CARRY, INPUT) if both[k] else (INPUT,):
            column = anchor(base, k)
            found[k, k, line, column] = base.W[k, line, column]
    return torch.from_numpy(found)


def reach(model_times: Array, end: float) -> Array:
    """How far each network time may move: half the way to its nearest neighbour or the end; the first may not."""
    distinct = np.unique([*model_times, end])
    found = np.zeros(len(model_times))
    for k, tau in enumerate(model_times):
        others = np.abs(distinct[distinct != tau] - tau)
        found[k] = 0.5 * others.min() if len(others) else 0.0
    found[model_times == model_times[0]] = 0.0
    return found
