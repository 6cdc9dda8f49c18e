"""One table a sample, from a level of its own to the same end, all played together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.building.compiling import build
from fewstep.samplers.drivers.base_tables import explicit
from fewstep.samplers.drivers.driven_run import Task
from fewstep.samplers.run.per_sample import Numbers, column
from fewstep.samplers.schedule.outputs import form_pair
from fewstep.samplers.table.tableau import Tableau


@dataclass
class OwnTables:
    """An ODE table from any level to t_end, one a sample."""

    task: Task
    base: str
    options: Mapping[str, Any]

    def tables(self, times: Numbers, nfe: int) -> list[Tableau]:
        """The table of every sample."""
        task = self.task
        if explicit(task.grid):
            raise ValueError(
                "dlg: every chain starts its way down at a level of its own: give `grid` a name or a function"
            )
        grid = "karras" if task.grid is None else task.grid
        known = {
            t: build(self.base, task.schedule, nfe, grid, t_start=t, t_end=task.t_end, **self.options)
            for t in set(times.tolist())
        }
        one = next(iter(known.values()))
        if one.slots or one.elementwise:
            raise ValueError(
                f"dlg: `base` must be an ODE solver with plain weights, such as 'dpmpp_2m'; got {self.base!r}"
            )
        return [known[t] for t in times.tolist()]

    def down(self, x: Tensor, times: Numbers, nfe: int, spent: int) -> Tensor:
        """x at the given times (B,) -> x at t_end, with `nfe` evaluations."""
        task, tables = self.task, self.tables(times, nfe)
        one = tables[0]
        W = np.stack([table.W for table in tables], -1)  # (nfe, 2, R, B)
        weights = torch.from_numpy(W).to(x.device, x.dtype).view(*W.shape, *(1,) * (x.ndim - 1))
        nodes = [np.stack([getattr(table.nodes, f) for table in tables], 1) for f in ("t", "alpha", "sigma")]
        state, history = torch.stack([x, x]), [torch.zeros_like(x)] * one.history
        constant = [torch.ones_like(x)] * one.constant
        for k in range(nfe):
            (t, alpha, sigma), (A, B), at = (v[k] for v in nodes), form_pair(one.forms[k]), state[1]
            m = task.predict(one.forms[k], at, t)  # type: ignore[arg-type]
            history = [m, *history][: one.history]
            state = (weights[k] * torch.stack([*state, *history, *constant])).sum(1)

            def x0(
                m: Tensor = m, at: Tensor = at, det: Numbers = sigma * A - alpha * B, s: Numbers = sigma, B: Any = B
            ) -> Tensor:
                return column(s / det, at) * m - column(B / det, at) * at

            after = state[1]
            seen = task.tell(spent + k, float(nodes[0][k + 1].max()), after, spent + k + 1, x0)
            state = state if seen is after else state + (seen - after)
        return state[1]
