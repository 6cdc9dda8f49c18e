"""`curve`: any metrics over network evaluations, for several solvers that all start from the same noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from fewstep.checks import unknown, whole
from fewstep.eval.compare.sweep import Sweep, Watch
from fewstep.eval.metrics.registry import METRICS
from fewstep.eval.passes.processes import Processes
from fewstep.eval.report.curve_points import Point
from fewstep.eval.report.curves import Curves
from fewstep.eval.shared_noise.measures import MEASURES
from fewstep.eval.shared_noise.pairs import paired
from fewstep.eval.shared_noise.trials import check_reference
from fewstep.samplers.noise.random_state import random_state_kept
from fewstep.samplers.pipeline.contenders import Contender, contenders
from fewstep.samplers.pipeline.source import Source


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
    seconds: float | None = None,
    watch: Watch = lambda names, _: names,
    processes: str = "shared",
    wait: float | None = None,
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
        seconds: of paired metrics, as in `paired`; metrics of sets are measured of what is left then.
        watch: `watch(names, label)` yields the names while it shows progress.
        processes: where several run, "shared": each draws a part of the seeds; "alone": this one asks no other. wait: seconds
            that the others are waited for.
        how: device, dtype, batch_size, classes, prompt, guidance, call: what the pipeline is called with.

    Returns:
        Curves, with a few images of every point as `samples`; in several processes each of them has the same.

    Raises:
        ValueError: whatever `evaluate`, `paired` and `sample` refuse, before anything is drawn where that can be known.
    """
    options = dict(options or {})
    seen = [name for name in metrics if name not in MEASURES]
    compared = [name for name in metrics if name in MEASURES]
    solvers = _checked(solvers, nfe, metrics, grid, options)
    check_reference(reference)
    if seen:
        _check_evaluation(seen, solvers, real, grid, number)
    if processes == "own":
        raise ValueError("a curve draws one set of seeds: processes='shared' divides it, 'alone' asks no other process")
    group = Processes.current(how.get("device"), processes, wait)
    question = f"curve {[*map(str, solvers)]} {[*nfe]} {[*metrics]} {number} {seed} {pairs} {grid} {noise} {options}"
    with random_state_kept(), group.guarded():
        group.agree(lambda: {"ways of sharing": group.share, "questions": question})
        source = Source(model, **({**how, "device": str(group.device)} if isinstance(model, str) else how))
        run = {"grid": grid, "noise": noise, "options": options}
        sweep = Sweep(source, group, tuple(solvers), tuple(nfe), range(seed, seed + number), run)
        about = {
            "model": model if isinstance(model, str) else type(source.pipe).__name__,
            "seed": seed,
            **source.content,
            **run,
        }
        errors: Curves | None = None
        points: list[Point] = []
        if compared:
            spec: dict[str, Any] = {"grid": grid, "reference": reference, "metrics": compared, "options": options}
            spec |= {"state": state, "seconds": seconds, "watch": watch}
            many = min(pairs, number)
            errors = group.of_first(lambda: paired(source, solvers, nfe, many, seed, **spec))
            about |= {name: errors.about[name] for name in ("pairs", "reference", "reference_shift", "entrants")}
        if seen:
            places = sweep.places if errors is None else _finalists(errors.points)
            points += sweep.evaluated(real, seen, {"resume": state, **(evaluation or {})}, watch, places)
            about["real"] = points[0].report.about["real"]
        if errors is not None:
            points = [*points, *errors.points] if metrics[0] in seen else [*errors.points, *points]
        return Curves(
            sweep.joined(points),
            {name: value for name, value in about.items() if value not in (None, {})},
            errors.notes if errors else (),
            errors.samples if errors else sweep.samples(),
        )


def _finalists(points: Sequence[Point]) -> list[tuple[str, int]]:
    """Places that were seen on as many images as any at their nfe: what a race has left."""
    most: dict[int, int] = {}
    for point in points:
        most[point.nfe] = max(most.get(point.nfe, 0), *(r.n or 0 for r in point.report.values()), 0)
    return [(p.solver, p.nfe) for p in points if max((r.n or 0 for r in p.report.values()), default=0) == most[p.nfe]]


def _checked(
    solvers: Sequence[str], nfe: Sequence[int], metrics: Sequence[str], grid: str | None, options: dict[str, Any]
) -> list[Contender]:
    """The solvers that are meant; ValueError for what can be seen to be wrong with them, numbers and names."""
    found = contenders(solvers, nfe, None if grid == "auto" else grid, options)
    kinds: dict[str, Sequence[Any]] = {"solver": solvers, "nfe": nfe, "metric": metrics}
    for kind, given in kinds.items():
        if not given or len(set(given)) < len(given):
            raise ValueError(
                f"a curve takes one {kind} or more, each once; got {', '.join(map(str, given)) or 'none'}."
            )
    for name in metrics:
        if name not in MEASURES and METRICS.named(name) is None:
            raise unknown("metric", name, [*METRICS, *MEASURES])
    return found


def _check_evaluation(
    metrics: Sequence[str], solvers: Sequence[Contender], real: Any, grid: str | None, number: int
) -> None:
    """ValueError for what metrics of sets of images cannot do, though paired ones could."""
    names = ", ".join(metrics)
    if real is None and any(METRICS.find(name).real for name in metrics):
        raise ValueError(f"{names}: compared with real images; give `real`, for example real='mnist'.")
    if grid == "auto":
        raise ValueError(f"grid 'auto' is chosen by the error to a reference: leave {names} away, or name a grid.")
    whole("number", number, 2, hint="Statistics of a point need two images")
    for name in solvers:
        if name.adaptive:
            raise ValueError(
                f"{name} chooses its own steps, so that no nfe can be planned: leave {names} away, or evaluate it alone "
                "with its tolerances."
            )
