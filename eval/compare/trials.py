"""Numbered samples that every solver draws from the same noise, and the reference that they are compared with.

Nothing here knows the command line or a picture; comparison.py tells of `Trials` what `fewstep compare` prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from fewstep.eval.compare.solver_errors import (
    SolverErrors,
    adaptive_errors,
    errors_on_best_grid,
    errors_to,
    flow_errors,
    longer,
)
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.building.names import solver_of
from fewstep.samplers.pipeline.contenders import Contender
from fewstep.samplers.pipeline.source import Source
from fewstep.samplers.table.tableau import Tableau

# Tried in turn for `--grid auto`; the ones that a schedule has no use for drop out.
AUTO_GRIDS = ("uniform", "quadratic", "logsnr", "karras", "beta")
# The reference. On the embedded digits it is 0.0005 from runs of 1000 evaluations (which agree with each other to 1e-5):
# smaller errors than that mean nothing in a table.
REFERENCE: dict[str, Any] = {"solver": "dpmpp_3m", "nfe": 200, "grid": "karras"}


def told(spec: dict[str, Any]) -> str:
    """A run in words."""
    return "{nfe} evaluations of {solver} on {grid}".format(**spec)


class Trials:
    """Numbered samples of a source, drawn by every solver from the same noise.

    Attributes:
        batches: the samples in the source's batches. reference: solver, nfe and grid of the run that solvers of the
            probability flow are compared with. usual_grid: the grid where nobody names one.
    """

    def __init__(self, source: Source, seeds: Sequence[int], reference: dict[str, Any] | None = None) -> None:
        self.source, self.seeds, self.reference = source, seeds, {**REFERENCE, **(reference or {})}
        self.batches = source.batches(seeds)
        self.usual_grid: str = self.batches[0].denoiser.schedule.default_grid
        self._truth: Tensor | None = None

    def draw(self, **how: Any) -> Tensor:
        """x0 (B, *shape) of all seeds by one solver at one nfe."""
        return torch.cat([batch.draw(**how) for batch in self.batches])

    def draw_alone(self, **how: Any) -> tuple[Tensor, float]:
        """The same with each sample by itself, for solvers that choose their steps, and the mean of their evaluations."""
        runs = [batch.run(**how) for batch in self.source.batches(self.seeds, alone=True)]
        return torch.cat([x0 for x0, _ in runs]), sum(info.nfe for _, info in runs) / len(runs)

    def images(self, x0: Tensor) -> list[Image]:
        """The first len(x0) samples as the pipeline's own pictures."""
        parts = x0.split(len(self.batches[0].seeds))
        return [image for batch, part in zip(self.batches, parts, strict=False) for image in batch.images(part)]

    def truth(self, progress: bool = False) -> Tensor:
        """x0 of the reference, drawn once."""
        if self._truth is None:
            self._truth = self.draw(**self.reference, progress=progress)
        return self._truth

    def errors(self, name: str, nfes: Sequence[int], grid: str | None = None, **options: Any) -> SolverErrors:
        """One solver by name or alias at every nfe; grid: a name, "auto" for the best of a few, None for the usual one.

        A learned artefact, by its file, has no error and no image at an nfe that it has no table for.
        """
        told = Contender(name)
        if told.learned is not None:
            return self._learned(told, told.learned, nfes).over(nfes, told.label)
        if told.table is not None:
            return self._table(told, told.table, nfes).over(nfes, told.label)
        entry, folk_grid = solver_of(name)
        solver, options = entry.name, {**dict(entry.bound), **options}
        to = None if entry.stochastic else self.truth()
        if entry.adaptive:
            return adaptive_errors(self.draw_alone, to, solver, nfes, **options)
        tried = AUTO_GRIDS if grid == "auto" else (grid or folk_grid or self.usual_grid,)
        return errors_on_best_grid(self.draw, to, solver, nfes, tried, **options)

    def _table(self, name: str, table: Tableau, nfes: Sequence[int]) -> SolverErrors:
        """A table as it is, at the number of evaluations that it makes."""
        known = [n for n in nfes if n == table.nfe]
        if table.stochastic:
            raise ValueError(
                f"{name} draws noise and has one number of evaluations: there is no longer run to compare it to"
            )
        return flow_errors(self.draw, self.truth(), name, known, "its own")

    def _learned(self, name: str, learned: Artefact, nfes: Sequence[int]) -> SolverErrors:
        """An artefact at those nfe that it has tables for."""
        known, first = [n for n in nfes if n in learned.nfes], learned.tables[0].tableau
        if not first.stochastic:
            return flow_errors(self.draw, self.truth(), name, known, "learned")
        reference = self.draw(solver=first.name, nfe=longer(nfes), noise="brownian", **first.options)
        drawn = [self.draw(solver=name, nfe=n, noise="brownian") for n in known]
        return errors_to(reference, name, "learned", known, drawn)
