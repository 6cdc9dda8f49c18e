"""`paired`: solvers against a reference run on shared noise, image by image.

x0* is a long run of another solver from the same x_T; for a solver with noise it is its own long run on the same Brownian
paths. With 64 pairs it tells apart what a Frechet distance of hundreds of images cannot: most of the spread of images is
shared, and Curves.differences takes it away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.checks import whole
from fewstep.eval.compare.measures import MEASURES, check_measures, image_errors
from fewstep.eval.compare.solver_errors import SolverErrors, longer
from fewstep.eval.compare.trials import Trials, told
from fewstep.eval.report.curve_points import Point
from fewstep.eval.report.curves import Curves
from fewstep.eval.report.evaluation_report import Report
from fewstep.eval.report.paired_difference import mean_interval
from fewstep.eval.report.result import HIGHER, Result
from fewstep.samplers.pipeline.contenders import Contender, contenders
from fewstep.samplers.pipeline.source import Source

_PRECISION = {"float16": "fp16", "bfloat16": "bf16"}
# An error below this many times the reference's change from half as many evaluations says much of the reference.
_TRUSTED = 3.0


def paired(
    model: Any = "demo",
    solvers: Sequence[str] = ("ddim", "dpmpp_2m"),
    nfe: Sequence[int] = (5, 10, 20),
    pairs: int = 64,
    seed: int = 0,
    *,
    grid: str | None = None,
    reference: Mapping[str, Any] | None = None,
    metrics: Sequence[str] = ("rmse", "psnr"),
    options: Mapping[str, Any] | None = None,
    watch: Callable[[Sequence[str], str], Iterable[str]] = lambda names, _: names,
    **how: Any,
) -> Curves:
    """Errors of solvers to a reference run from the same noise, for every image, with intervals.

    Args:
        model: "demo", a folder or hub id of a diffusers pipeline, a pipeline, or a `Source`.
        solvers: names or aliases; of solvers that choose their steps, the best run that spent no more than an nfe.
        nfe: network evaluations. pairs: images; image i starts from seed + i in every run.
        grid: one for all, "auto" for each solver's best of a few, None for the model's own.
        reference: solver, nfe and grid of the long run, or some of them; else 200 evaluations of dpmpp_3m on karras. A run of
            half as many evaluations checks it, and a note says which errors are too small to be told from its own.
        metrics: "rmse", "psnr", "lpips".
        options: of the solvers. watch: `watch(names, label)` yields the names while it shows progress.
        how: device, dtype, batch_size, classes, prompt, guidance: what the pipeline is called with.

    Returns:
        Curves of which every Result has the mean over the images, an interval by Student's t, the median and the worst in
        `details`, and the error of each image in `groups`, in the order of the seeds.

    Raises:
        ValueError: an unknown solver, grid, metric or option, counts below 1, a missing package, before anything is loaded.
    """
    options = dict(options or {})
    solvers = _checked(solvers, nfe, pairs, grid, metrics, options)
    source = model if isinstance(model, Source) else Source(model, **how)
    trials = Trials(source, range(seed, seed + pairs), dict(reference) if reference else None)
    noisy = [name for name in solvers if Contender(name).stochastic]
    shift = _shift(trials) if len(noisy) < len(solvers) else None
    about = {
        "model": model if isinstance(model, str) else type(source.pipe).__name__,
        "pairs": pairs,
        "seed": seed,
        "reference": "their own longer runs" if shift is None else told(trials.reference),
        "reference_shift": shift,
    }
    precision = _PRECISION.get(str(how.get("dtype")), "fp32")
    points = []
    for name in watch(solvers, "solver"):
        errors = trials.errors(name, nfe, grid, **options)
        points += _points(name, errors, trials, metrics, {"n": pairs, "protocol": "paired", "precision": precision})
    return Curves(points, about, _notes(points, noisy, shift, nfe))


def _checked(
    solvers: Sequence[str], nfe: Sequence[int], pairs: int, grid: str | None, metrics: Sequence[str], options: dict
) -> list[Contender]:
    """The solvers that are meant; ValueError for everything that can be seen to be wrong before a model is loaded."""
    found = contenders(solvers, nfe, None if grid == "auto" else grid, options)
    for given, words in ((solvers, "solver"), (nfe, "nfe"), (metrics, f"metric ({', '.join(MEASURES)})")):
        if not given:
            raise ValueError(f"a paired comparison needs at least one {words}; got none.")
        if len(set(given)) < len(given):
            raise ValueError(f"each {words} is named once; got {', '.join(map(str, given))}.")
    whole("pairs", pairs, hint="An interval needs two")
    check_measures(metrics)
    return found


def _shift(trials: Trials) -> float:
    """Mean RMSE between the reference and the same solver at half the evaluations."""
    half = trials.draw(**{**trials.reference, "nfe": max(1, trials.reference["nfe"] // 2)})
    return float(image_errors(half, trials.truth()).mean())


def _points(
    name: str, found: SolverErrors, trials: Trials, metrics: Sequence[str], facts: Mapping[str, Any]
) -> list[Point]:
    """One point an nfe that the solver could run at."""
    able = [k for k, error in enumerate(found.rmse) if np.isfinite(error)]
    spaces = {"x0": [found.samples[k] for k in able] + [found.reference]}
    if any(MEASURES[metric][1] == "pixels" for metric in metrics):
        spaces["pixels"] = [_pixels(trials, x0) for x0 in spaces["x0"]]
    points = []
    for i, k in enumerate(able):
        results = []
        for metric in metrics:
            measure, space = MEASURES[metric]
            errors = measure(spaces[space][i], spaces[space][-1])
            results.append(result(metric, errors).under(layer=space, **facts))
        points.append(Point(name, found.nfes[k], Report(results), found.grid))
    return points


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


def _notes(points: Sequence[Point], noisy: Sequence[str], shift: float | None, nfe: Sequence[int]) -> list[str]:
    """What the errors are to, and how far that is to be trusted."""
    said = []
    if shift is not None:
        said.append(f"the reference moved by an RMSE of {shift:.2g} from half its evaluations")
        close = [
            f"{p.solver} at {p.nfe}"
            for p in points
            if p.solver not in noisy and "rmse" in p.report and p.report["rmse"].value < _TRUSTED * shift
        ]
        if close:
            said.append(f"too near the reference's own error to be ranked: {', '.join(close)}; take one of more nfe")
    if noisy:
        said.append(f"{', '.join(noisy)}: to their own runs of {longer(nfe)} evaluations on the same Brownian paths")
    return said
