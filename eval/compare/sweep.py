"""What a curve is made of: every solver at every nfe on the same seeds, evaluated and compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from fewstep.eval.images.generated import Generated
from fewstep.eval.metrics.registry import METRICS, Metric
from fewstep.eval.passes.evaluation import evaluate, stats
from fewstep.eval.passes.processes import Processes
from fewstep.eval.report.curve_points import Point
from fewstep.eval.report.evaluation_report import Report
from fewstep.samplers.pipeline.contenders import Contender
from fewstep.samplers.pipeline.source import Source

SHOWN = 3  # images of a point on the sample sheet
Watch = Callable[[Sequence[str], str], Iterable[str]]


@dataclass(frozen=True)
class Sweep:
    """What is drawn: every solver at every nfe from the same seeds. run: grid, noise and options of the solvers."""

    source: Source
    processes: Processes
    solvers: tuple[str, ...]
    nfes: tuple[int, ...]
    seeds: range
    run: Mapping[str, Any]

    @property
    def places(self) -> list[tuple[str, int]]:
        known = {solver: Contender(solver).nfes for solver in self.solvers}
        return [(s, n) for s, nfes in known.items() for n in self.nfes if nfes is None or n in nfes]

    def evaluated(
        self,
        real: Any,
        metrics: Sequence[str],
        how: Mapping[str, Any],
        watch: Watch,
        places: Sequence[tuple[str, int]],
    ) -> Iterator[Point]:
        """A point of each of these places; the real side is looked at once."""
        how = {"batch_size": self.source.batch_size, **how, "processes": self.processes}
        if real is not None:
            wanted = [metric for metric in map(METRICS.find, metrics) if metric.real]
            options = how.get("options") or {}
            rows = any(metric.rows and metric.vectors_of_real(options.get(metric.name, {})) for metric in wanted)
            spatial = any("spatial" in metric.statistics for metric in wanted)
            shared = {name: value for name, value in how.items() if name != "options"}
            real = stats(real, rows=rows, spatial=spatial, **shared)
        beside = self._beside([METRICS.find(metric) for metric in metrics])
        labels = [f"{solver} at {n}" for solver, n in places]
        for (solver, n), _ in zip(places, watch(labels, "point"), strict=True):
            run = self._run(solver)
            images = Generated(self.source, solver, n, seeds=self.seeds, **run)
            yield Point(solver, n, evaluate(real, images, metrics, **how, **beside), run["grid"] or "")

    def _beside(self, metrics: Sequence[Metric]) -> dict[str, Any]:
        """Prompts and classes of the seeds, as the model is called with them, where a metric looks at them."""
        wanted = {"prompts": ("prompt", any(m.score is not None and not m.paired for m in metrics))}
        wanted["labels"] = ("class_labels", any(m.labelled for m in metrics))
        calls = [self.source.calls.of(seed) for seed in self.seeds]
        return {
            name: [call[argument] for call in calls]
            for name, (argument, asked) in wanted.items()
            if asked and all(call.get(argument) is not None for call in calls)
        }

    def _run(self, solver: str) -> dict[str, Any]:
        """Grid, noise and options of one solver; the grid in its name goes before the one of all."""
        return {**self.run, "grid": Contender(solver).grid or self.run["grid"]}

    def joined(self, points: Sequence[Point]) -> list[Point]:
        """One point a place, with the results of all its points."""
        whole = []
        for solver, n in self.places:
            here = [point for point in points if (point.solver, point.nfe) == (solver, n)]
            if here:
                results = [result for point in here for result in point.report.values()]
                notes = [note for point in here for note in point.report.notes]
                grid = next((point.grid for point in here if point.grid), "")
                cost = next((point.cost for point in here if point.cost), None)
                steps = next((point.steps for point in here if point.steps), None)
                whole.append(Point(solver, n, Report(results, here[0].report.about, notes), grid, cost, steps))
        return whole

    def samples(self) -> dict[tuple[str, int], list[Image]]:
        """The first images of every place, of solvers that do not choose their steps."""

        def drawn() -> dict[tuple[str, int], list[Image]]:
            shown = {}
            (batch,) = self.source.batches(self.seeds[: min(SHOWN, self.source.batch_size)])
            for solver, n in self.places:
                run = self._run(solver)
                how = {"grid": run["grid"], "noise": run["noise"], **run["options"]}
                if not Contender(solver).adaptive:
                    shown[solver, n] = batch.images(batch.draw(solver=solver, nfe=n, **how))
            return shown

        return self.processes.of_first(drawn)
