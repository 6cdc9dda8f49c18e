"""What paired comparisons have measured so far: a cell is one contender at one nfe, with the error of every image it drew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from fewstep.eval.report.curve_points import REFERENCE, Cost, Point, own_reference
from fewstep.eval.report.evaluation_report import Report
from fewstep.eval.report.paired_difference import mean_interval
from fewstep.eval.report.result import HIGHER, Result
from fewstep.eval.shared_noise.kept_samples import Drawn
from fewstep.eval.shared_noise.measures import MEASURES
from fewstep.eval.shared_noise.racing import Cell
from fewstep.eval.shared_noise.solver_errors import SolverErrors
from fewstep.eval.shared_noise.trials import Trials
from fewstep.samplers.pipeline.contenders import Contender
from fewstep.samplers.pipeline.source import Source

SHOWN = 4  # images of a cell that are looked at, where these are no more than
MOST_SHOWN = 240  # pictures that are decoded


class Cells:
    """Cells that grow block by block. facts: of every result, such as its precision.

    Attributes:
        means: mean RMSE of each cell over all images so far. notes: who could not run, and why.
    """

    def __init__(self, metrics: Sequence[str], **facts: Any) -> None:
        self.metrics, self.facts = tuple(metrics), facts
        self.means: dict[Cell, float] = {}
        self.notes: list[str] = []
        self._errors: dict[Cell, dict[str, list[np.ndarray]]] = {}
        self._drawn: dict[Cell, list[tuple[int, Drawn]]] = {}  # (images, without all but the first of them)
        self._grids: dict[Cell, str] = {}
        self._first: dict[tuple[str, int], Tensor] = {}

    def refer(self, nfe: int, truth: Tensor) -> None:
        """The reference's first images are shown beside the others."""
        self._first[REFERENCE, nfe] = truth[:SHOWN]

    def add(self, name: Contender, found: SolverErrors, trials: Trials) -> None:
        """What one contender drew of a block, at those nfe that it has a run for."""
        truth = {"x0": found.reference}
        if name.stochastic:
            self._first.setdefault((own_reference(name), trials.longest or 0), found.reference[:SHOWN])
        pixels = any(MEASURES[metric][1] == "pixels" for metric in self.metrics)
        if pixels:
            truth["pixels"] = _pixels(trials, found.reference)
        for nfe, one in zip(found.nfes, found.drawn, strict=True):
            if one is None:
                continue
            cell = (name, nfe)
            seen = {"x0": one.x0, **({"pixels": _pixels(trials, one.x0)} if pixels else {})}
            errors = self._errors.setdefault(cell, {})
            for metric in dict.fromkeys(("rmse", *self.metrics)):
                measure, space = MEASURES[metric]
                errors.setdefault(metric, []).append(measure(seen[space], truth[space]))
            self.means[cell] = float(np.concatenate(errors["rmse"]).mean())
            self._grids[cell] = found.grid
            self._first.setdefault(cell, one.x0[:SHOWN])
            self._drawn.setdefault(cell, []).append((len(one.x0), one._replace(x0=one.x0[:0])))

    def refuse(self, name: Contender, nfe: int, error: ValueError) -> None:
        """One could not run."""
        self.notes.append(f"{name.label} is left out at {nfe}: {error}")

    def points(self) -> list[Point]:
        """One a cell, in the order of coming. ValueError: there is none, with the last reason."""
        if not self._errors and self.notes:
            raise ValueError(self.notes[-1])
        return [
            Point(
                *cell, Report(self._results(cell)), self._grids[cell], self._cost(cell), self._drawn[cell][0][1].steps
            )
            for cell in self._errors
        ]

    def _results(self, cell: Cell) -> list[Result]:
        spaces = {metric: MEASURES[metric][1] for metric in self.metrics}
        return [
            result(metric, np.concatenate(self._errors[cell][metric])).under(layer=spaces[metric], **self.facts)
            for metric in self.metrics
        ]

    def _cost(self, cell: Cell) -> Cost:
        """Means over the images of all blocks; the most of what is most."""
        parts = self._drawn[cell]
        total = sum(n for n, _ in parts)
        seconds = [n * one.seconds for n, one in parts if one.seconds is not None]
        return Cost(
            sum(n * one.nfe for n, one in parts) / total,
            sum(seconds) / total if len(seconds) == len(parts) else None,
            max((one.memory for _, one in parts if one.memory is not None), default=None),
            parts[0][1].held,
        )

    def pictures(self, source: Source, seeds: Sequence[int]) -> dict[tuple[str, int], list[Image]]:
        """The first images of all cells and references; of many cells fewer, and of very many the best names' alone."""
        each = max(1, min(SHOWN, MOST_SHOWN // len(self._first)))
        trials, room = Trials(source, seeds[:each]), MOST_SHOWN // each
        best: dict[str, float] = {name: 0.0 for name, _ in self._first}  # references go first
        for nfe in {nfe for _, nfe in self.means}:
            column = sorted((mean, name) for (name, n), mean in self.means.items() if n == nfe)
            for place, (_, name) in enumerate(column, 1):
                best[name] = min(best[name] or place, place)
        shown: list[tuple[str, int]] = []
        for name in sorted(best, key=best.__getitem__):
            cells = [cell for cell in self._first if cell[0] == name]
            shown += cells if len(shown) + len(cells) <= room else []
        return {(str(name), nfe): trials.images(self._first[name, nfe][:each]) for name, nfe in shown}


def result(metric: str, errors: np.ndarray) -> Result:
    """The mean of the errors of some images (B,) as a Result: interval, median, worst, and each of them."""
    mean, error, interval = mean_interval(errors) if len(errors) > 1 else (float(errors[0]), None, None)
    worst = errors.min() if metric in HIGHER else errors.max()
    return Result(
        metric,
        mean,
        error,
        None if interval is None else (max(0.0, interval[0]), interval[1]),
        "" if interval is None else "Student's t over the images",
        n=len(errors),
        details={"median": float(np.median(errors)), "worst": float(worst)},
        groups=tuple(map(float, errors)),
    )


def _pixels(trials: Trials, x0: Tensor) -> Tensor:
    """uint8 (B, C, H, W) of the decoded images."""
    pictures = [np.asarray(image) for image in trials.images(x0)]
    return torch.from_numpy(np.stack([p[None] if p.ndim == 2 else p.transpose(2, 0, 1) for p in pictures]))
