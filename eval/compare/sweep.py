"""`curve`: any metrics over network evaluations, for several solvers that all start from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep import __version__
from fewstep.checks import unknown
from fewstep.eval.compare.curves import Curves, Point
from fewstep.eval.compare.pairs import MEASURES, paired
from fewstep.eval.images import digest
from fewstep.eval.metrics import find
from fewstep.eval.metrics import metrics as known_metrics
from fewstep.eval.report.report import Report

if TYPE_CHECKING:
    from PIL.Image import Image

    from fewstep.eval.passes.world import World
    from fewstep.samplers.pipeline.source import Source

SHOWN = 3  # images of a point on the sample sheet
Watch = Callable[[Sequence[str], str], Iterable[str]]


def curve(
    model: Any = "demo",
    solvers: Sequence[str] = ("ddim", "dpmpp_2m"),
    nfe: Sequence[int] = (5, 10, 20),
    real: Any = None,
    metrics: Sequence[str] = ("fid",),
    number: int = 1000,
    seed: int = 0,
    *,
    pairs: int = 64,
    grid: str | None = None,
    noise: str = "independent",
    options: Mapping[str, Any] | None = None,
    reference: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    state: str | PathLike[str] | None = None,
    watch: Watch = lambda names, _: names,
    **how: Any,
) -> Curves:
    """Metrics of every solver at every nfe on one set of seeds, with intervals and paired differences.

        fe.curve("demo", ("ddim", "dpmpp_2m"), (5, 10, 20), real="mnist", metrics=("fid", "rmse")).write("out")

    Args:
        model: "demo", a folder or hub id of a diffusers pipeline, or a pipeline.
        solvers: names or aliases, or files of learned artefacts. nfe: network evaluations; a solver that chooses its own
            steps has none to plan, and can only be compared by the paired metrics.
        real: as in `evaluate`; None where no metric needs it.
        metrics: names of metrics ("fid", "kid" ...) and of paired ones ("rmse", "psnr", "lpips").
        number, seed: images a point, of the seeds from `seed` on. pairs: the first so many of them for paired metrics.
        grid, noise, options: of the solvers, as `sample` takes them. reference: as in `paired`.
        evaluation: arguments of `evaluate`: extractor, protocol, workers, progress, options of metrics ...
        state: a folder in which features are kept, so that an interrupted run goes on where it stopped and a finished point
            is not drawn again; what is found there is known by what was drawn, from what, and how looked at.
        watch: `watch(names, label)` yields the names while it shows progress.
        how: device, dtype, batch_size, classes, prompt, guidance: what the pipeline is called with.

    Returns:
        Curves, with a few images of every point as `samples`; in several processes each of them has the same.

    Raises:
        ValueError: whatever `evaluate`, `paired` and `sample` refuse, before anything is drawn where that can be known.
    """
    options = dict(options or {})
    seen = [name for name in metrics if name not in MEASURES]
    compared = [name for name in metrics if name in MEASURES]
    _check(solvers, nfe, metrics, grid, options)
    if seen:
        _check_evaluation(seen, solvers, real, grid, number)
    from fewstep.eval.passes.world import World
    from fewstep.samplers.pipeline.source import Source

    world = World.current(how.get("device"))
    source = Source(model, **({**how, "device": str(world.device)} if isinstance(model, str) else how))
    run = {"grid": grid, "noise": noise, "options": options}
    sweep = _Sweep(source, world, tuple(solvers), tuple(nfe), range(seed, seed + number), run)
    about = {
        "model": model if isinstance(model, str) else type(source.pipe).__name__,
        "seed": seed,
        **source.wishes,
        **run,
    }
    points: list[Point] = []
    notes: list[str] = []
    if seen:
        points += sweep.evaluated(real, seen, {"resume": state, **(evaluation or {})}, watch)
        about["real"] = points[0].report.about["real"]
    if compared:
        spec: dict[str, Any] = {"grid": grid, "reference": reference, "metrics": compared, "options": options}
        errors = world.broadcast(sweep.compared(min(pairs, number), spec, state, watch) if world.first else None)
        points += errors.points
        notes += errors.notes
        about |= {name: errors.about[name] for name in ("pairs", "reference")}
    return Curves(sweep.joined(points), {k: v for k, v in about.items() if v not in (None, {})}, notes, sweep.samples())


def _check(
    solvers: Sequence[str], nfe: Sequence[int], metrics: Sequence[str], grid: str | None, options: dict[str, Any]
) -> None:
    """ValueError for what can be seen to be wrong with solvers, numbers and names."""
    from fewstep.samplers.building.solver_entry import checked_names

    checked_names(solvers, nfe, None if grid == "auto" else grid, options)
    kinds: dict[str, Sequence[Any]] = {"solver": solvers, "nfe": nfe, "metric": metrics}
    for kind, given in kinds.items():
        if not given or len(set(given)) < len(given):
            raise ValueError(
                f"a curve takes one {kind} or more, each once; got {', '.join(map(str, given)) or 'none'}."
            )
    for name in metrics:
        if name not in MEASURES and name not in known_metrics():
            raise unknown("metric", name, [*known_metrics(), *MEASURES])


def _check_evaluation(metrics: Sequence[str], solvers: Sequence[str], real: Any, grid: str | None, number: int) -> None:
    """ValueError for what metrics of sets of images cannot do, though paired ones could."""
    from fewstep.samplers.pipeline.contenders import entry_of

    names = ", ".join(metrics)
    if real is None and any(find(name).real for name in metrics):
        raise ValueError(f"{names}: compared with real images; give `real`, for example real='mnist'.")
    if grid == "auto":
        raise ValueError(f"grid 'auto' is chosen by the error to a reference: leave {names} away, or name a grid.")
    if number < 2:
        raise ValueError(f"statistics need at least 2 images a point; got number={number}.")
    for name in solvers:
        if entry_of(name).adaptive:
            raise ValueError(
                f"{name} chooses its own steps, so that no nfe can be planned: leave {names} away, or evaluate it alone "
                "with its tolerances."
            )


@dataclass(frozen=True)
class _Sweep:
    """What is drawn: every solver at every nfe from the same seeds. run: grid, noise and options of the solvers."""

    source: Source
    world: World
    solvers: tuple[str, ...]
    nfes: tuple[int, ...]
    seeds: range
    run: Mapping[str, Any]

    @property
    def places(self) -> list[tuple[str, int]]:
        return [(solver, n) for solver in self.solvers for n in self.nfes]

    def evaluated(self, real: Any, metrics: Sequence[str], how: Mapping[str, Any], watch: Watch) -> Iterator[Point]:
        """A point of every place; the real side is looked at once."""
        from fewstep.eval.images.generated import Generated
        from fewstep.eval.passes.evaluation import evaluate, stats

        how = {"batch_size": self.source.batch_size, **how, "world": self.world}
        if real is not None:
            wanted = [metric for metric in map(find, metrics) if metric.real]
            rows = any(metric.rows and metric.real_rows for metric in wanted)
            spatial = any("spatial" in metric.statistics for metric in wanted)
            shared = {name: value for name, value in how.items() if name != "options"}
            real = stats(real, rows=rows, spatial=spatial, **shared)
        labels = [f"{solver} at {n}" for solver, n in self.places]
        for (solver, n), _ in zip(self.places, watch(labels, "point"), strict=True):
            images = Generated(self.source, solver, n, seeds=self.seeds, **self.run)
            yield Point(solver, n, evaluate(real, images, metrics, **how), self.run["grid"] or "")

    def compared(self, pairs: int, spec: dict[str, Any], state: str | PathLike[str] | None, watch: Watch) -> Curves:
        """Paired errors, found again in the state folder where the same were measured before."""
        from fewstep.eval.images.generated import Generated
        from fewstep.samplers.pipeline.contenders import identity

        def measured() -> Curves:
            return paired(self.source, self.solvers, self.nfes, pairs, self.seeds[0], watch=watch, **spec)

        if state is None:
            return measured()
        drawn = Generated(self.source, "ddim", 1, seeds=self.seeds[:pairs]).fingerprint
        told = [identity(solver) for solver in self.solvers]
        kept = Path(state) / f"paired-{digest(__version__, drawn, told, self.nfes, spec)}.json"
        if not kept.exists():
            measured().to_json(kept)
        return Curves.from_json(kept)

    def joined(self, points: Sequence[Point]) -> list[Point]:
        """One point a place, with the results of all its points."""
        whole = []
        for solver, n in self.places:
            here = [point for point in points if (point.solver, point.nfe) == (solver, n)]
            if here:
                results = [result for point in here for result in point.report.values()]
                notes = [note for point in here for note in point.report.notes]
                grid = next((point.grid for point in here if point.grid), "")
                whole.append(Point(solver, n, Report(results, here[0].report.about, notes), grid))
        return whole

    def samples(self) -> dict[tuple[str, int], list[Image]]:
        """The first images of every place, of solvers that do not choose their steps."""
        from fewstep.samplers.pipeline.contenders import entry_of

        drawn = {}
        if self.world.first:
            (batch,) = self.source.batches(self.seeds[: min(SHOWN, self.source.batch_size)])
            grid = None if self.run["grid"] == "auto" else self.run["grid"]
            how = {"grid": grid, "noise": self.run["noise"], **self.run["options"]}
            for solver, n in self.places:
                if not entry_of(solver).adaptive:
                    drawn[solver, n] = batch.images(batch.draw(solver=solver, nfe=n, **how))
        found: dict[tuple[str, int], list[Image]] = self.world.broadcast(drawn)
        return found
