"""Filters as parameters, beside a table's other knobs: what a row adds of its input and outputs after a small convolution.

    input_{k+1} += sum_j F_kj * r_j,     r = (input_k, m_k, m_{k-1}, ...),     F = F_start + theta,  theta = 0 at the start

A sum of weights moves a picture as a whole; what is smeared or rings in space is out of their reach, and in that of a filter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.run.free_row import Coefficients
from fewstep.samplers.table.tableau import Tableau


class Filters:
    """Parameters `filter` (nfe, 1 + window, C or 1, k, k), float64, and those of `knobs`.

    Args:
        start: table to begin from, with filters of the same shape or none. knobs: of the table without filters.
        window: outputs that a filter reads. channels: filters of each channel, 1 for all alike. size: k, odd.
    """

    def __init__(self, start: Tableau, knobs: Knobs, window: int, channels: int, size: int):
        self.knobs, self.start = knobs, knobs.start
        shape = (start.nfe, 1 + min(window, self.start.history), channels, size, size)
        if start.filters is not None and start.filters.shape != shape:
            raise ValueError(f"{start.name}: its filters are of shape {start.filters.shape}; expected {shape}, or none")
        first = np.zeros(shape) if start.filters is None else start.filters
        self._first = torch.from_numpy(first.copy())
        self.start = self.start if start.filters is None else start
        self.parameters: dict[str, Tensor] = {**knobs.parameters, "filter": torch.zeros(shape, dtype=torch.float64)}
        self.parameters["filter"].requires_grad_()

    @property
    def count(self) -> int:
        """Numbers that can be turned freely."""
        return self.knobs.count + self.parameters["filter"].numel()

    def coefficients(self) -> Coefficients:
        """What `play` needs, with a graph back to the parameters."""
        return self.knobs.coefficients()._replace(filters=self._first + self.parameters["filter"])

    @torch.no_grad()
    def table(self) -> Tableau:
        """The table with the parameters where they are; without filters where all are zero."""
        table, F = self.knobs.table(), (self._first + self.parameters["filter"]).numpy()
        how: dict[str, Any] = {"filters": F.copy(), "conserves": ""} if F.any() else {}
        return replace(table, **how) if how else table
