"""Numbered samples that every solver draws from the same noise, and the reference that they are compared with.

Nothing here knows the command line or a picture; comparison.py tells of `Trials` what `fewstep compare` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL.Image import Image
from torch import Tensor

from fewstep.checks import MOST_ROWS, evaluations
from fewstep.eval.shared_noise.kept_samples import Drawn, Kept, drawn
from fewstep.eval.shared_noise.solver_errors import (
    SolverErrors,
    adaptive_errors,
    errors_on_best_grid,
    flow_errors,
    longer,
)
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.building.names import solver_of
from fewstep.samplers.grids.making import find
from fewstep.samplers.pipeline.contenders import Contender
from fewstep.samplers.pipeline.source import Source
from fewstep.samplers.table.tableau import Tableau

# Tried in turn for `--grid auto`; the ones that a schedule has no use for drop out.
AUTO_GRIDS = ("uniform", "quadratic", "logsnr", "karras", "beta")
# The reference. On the embedded digits it is 0.0005 from runs of 1000 evaluations (which agree with each other to 1e-5):
# smaller errors than that mean nothing in a table.
REFERENCE: dict[str, Any] = {"solver": "dpmpp_3m", "nfe": 200, "grid": "karras"}
TIMES, LEAST = 10, 100


def told(spec: dict[str, Any]) -> str:
    """A run in words."""
    return "{nfe} evaluations of {solver} on {grid}".format(**spec)


def long_enough(nfes: Sequence[int]) -> dict[str, Any]:
    """The reference for so many evaluations: TIMES the most of them, at least LEAST, and no more than it has for all."""
    return {**REFERENCE, "nfe": min(REFERENCE["nfe"], max(LEAST, TIMES * max(nfes)))}


def check_reference(reference: Mapping[str, Any] | None) -> None:
    """ValueError for a reference that is no run of a solver of the flow with a number of evaluations."""
    told = {**REFERENCE, **(reference or {})}
    if set(told) != set(REFERENCE):
        odd = ", ".join(sorted(set(told) - set(REFERENCE)))
        raise ValueError(f"a reference is told by {', '.join(REFERENCE)}; got {odd} too")
    chosen = Contender(told["solver"])
    chosen.check([told["nfe"]], told["grid"], {})
    if chosen.stochastic or chosen.adaptive:
        raise ValueError(
            f"the reference is a run of a solver without noise that makes a given number of evaluations; got {chosen}"
        )
    evaluations("the reference's nfe", told["nfe"], MOST_ROWS)
    find(told["grid"])


class Trials:
    """Numbered samples of a source, drawn by every solver from the same noise.

    Attributes:
        batches: the samples in the source's batches. reference: solver, nfe and grid of the run that solvers of the
            probability flow are compared with. usual_grid: the grid where nobody names one. kept: where what was drawn is
            kept, and found again, if anywhere. longest: evaluations of the run that a stochastic solver is compared with.
    """

    def __init__(
        self,
        source: Source,
        seeds: Sequence[int],
        reference: dict[str, Any] | None = None,
        kept: Kept | None = None,
        longest: int | None = None,
    ) -> None:
        self.source, self.seeds, self.reference = source, seeds, {**REFERENCE, **(reference or {})}
        self.batches, self.kept, self.longest = source.batches(seeds), kept, longest
        self.usual_grid: str = self.batches[0].denoiser.schedule.default_grid
        self._truth: Tensor | None = None

    def draw(self, progress: bool = False, **how: Any) -> Drawn:
        """All seeds by one solver at one nfe."""
        return self._found(how, lambda: drawn(self.batches, {**how, "progress": progress}))

    def draw_alone(self, **how: Any) -> Drawn:
        """The same with each sample by itself, for solvers that choose their steps."""
        return self._found(how, lambda: drawn(self.source.batches(self.seeds, alone=True), how))

    def _found(self, how: dict[str, Any], draw: Callable[[], Drawn]) -> Drawn:
        """What is kept of this run, or what is drawn now."""
        if self.kept is None:
            return draw()
        place = self.kept.of(self.seeds, how)
        found = self.kept.read(place)
        if found is None:
            found = draw()
            self.kept.write(place, found)
        return found

    def images(self, x0: Tensor) -> list[Image]:
        """The first len(x0) samples as the pipeline's own pictures."""
        images: list[Image] = []
        for batch in self.batches:
            part, x0 = x0[: len(batch.seeds)], x0[len(batch.seeds) :]
            images += batch.images(part) if len(part) else []
        return images

    def truth(self, progress: bool = False) -> Tensor:
        """x0 of the reference, drawn once."""
        if self._truth is None:
            self._truth = self.draw(progress, **self.reference).x0
        return self._truth

    def errors(self, name: str, nfes: Sequence[int], grid: str | None = None, **options: Any) -> SolverErrors:
        """One solver by name or alias at every nfe; grid: a name, "auto" for the best of a few, None for the usual one.

        A learned artefact, by its file, has nothing drawn at an nfe that it has no table for.
        """
        told = Contender(name)
        if told.learned is not None:
            return self._learned(told, told.learned, nfes).over(nfes)
        if told.table is not None:
            return self._table(told, told.table, nfes).over(nfes)
        entry, folk_grid = solver_of(name)
        solver, options = entry.name, {**dict(entry.bound), **options}
        to = None if entry.stochastic else self.truth()
        if entry.adaptive:
            return adaptive_errors(self.draw_alone, to, solver, nfes, **options)
        tried = AUTO_GRIDS if grid == "auto" else (folk_grid or grid or self.usual_grid,)
        return errors_on_best_grid(self.draw, to, solver, nfes, tried, self.longest, **options)

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
        reference = self.draw(solver=first.name, nfe=self.longest or longer(nfes), noise="brownian", **first.options).x0
        found = tuple(self.draw(solver=name, nfe=n, noise="brownian") for n in known)
        return SolverErrors(name, "learned", tuple(known), found, reference)
