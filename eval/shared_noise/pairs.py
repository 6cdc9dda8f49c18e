"""`paired`: solvers against a reference run on shared noise, image by image.

x0* is a long run of another solver from the same x_T; for a solver with noise it is its own long run on the same Brownian
paths. With 64 pairs it tells apart what a Frechet distance of hundreds of images cannot: most of the spread of images is
shared, and Curves.differences takes it away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from os import PathLike
from pathlib import Path
from typing import Any

from fewstep.checks import MOST_ROWS, whole
from fewstep.eval.report.curve_points import Point
from fewstep.eval.report.curves import Curves
from fewstep.eval.shared_noise.kept_samples import Kept
from fewstep.eval.shared_noise.measures import MEASURES, check_measures, image_errors
from fewstep.eval.shared_noise.paired_cells import Cells
from fewstep.eval.shared_noise.racing import Race
from fewstep.eval.shared_noise.solver_errors import longer
from fewstep.eval.shared_noise.trials import Trials, check_reference, long_enough, told
from fewstep.samplers.noise.random_state import random_state_kept
from fewstep.samplers.pipeline.contenders import Contender, contenders
from fewstep.samplers.pipeline.source import Source

_PRECISION = {"float16": "fp16", "bfloat16": "bf16"}
# An error below this many times the reference's change from half as many evaluations says much of the reference.
_TRUSTED = 3.0
_CHECKED = 8  # images by which the reference is checked
Watch = Callable[[Sequence[Any], str], Iterable[Any]]


@random_state_kept()
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
    state: str | PathLike[str] | None = None,
    seconds: float | None = None,
    watch: Watch = lambda names, _: names,
    **how: Any,
) -> Curves:
    """Errors of solvers to a reference run from the same noise, for every image, with intervals, and which to take.

    Args:
        model: "demo", a folder or hub id of a diffusers pipeline, a pipeline, or a `Source`.
        solvers: names or aliases, "SOLVER on GRID" too, and files of learned artefacts or tables; of solvers that choose
            their steps, the best run that spent no more than an nfe.
        nfe: network evaluations. pairs: images; image i starts from seed + i in every run.
        grid: one for those that name none, "auto" for each solver's best of a few, None for the model's own.
        reference: solver, nfe and grid of the long run, or some of them; else dpmpp_3m on karras at ten times the most
            evaluations, 100 to 200. A run of half as many, of the first images, checks it, and a note says which errors are
            too small to be told from its own.
        metrics: "rmse", "psnr", "lpips".
        options: of the solvers.
        state: a folder in which samples are kept, so that an interrupted comparison goes on and a longer list draws only
            what is new.
        seconds: so long at most, about: all on a few images, the better half of each nfe on twice as many, and so on up to
            `pairs`; what was dropped on the way has fewer images, and a note says what was not tried.
        watch: `watch(names, label)` yields the names while it shows progress.
        how: device, dtype, batch_size, classes, prompt, guidance: what the pipeline is called with.

    Returns:
        Curves of which every Result has the mean over the images, an interval by Student's t, the median and the worst in
        `details`, and the error of each image in `groups`, in the order of the seeds; every point has the time an image. The
        first images are `samples`, those of the reference under ("reference", its nfe). `recommendations()` says which to take.

    Raises:
        ValueError: an unknown solver, grid, metric or option, counts below 1, a missing package, before anything is loaded.
    """
    options = dict(options or {})
    found = _checked(solvers, nfe, pairs, grid, metrics, options, reference)
    source = model if isinstance(model, Source) else Source(model, **how)
    long = {**long_enough(nfe), **(reference or {})}
    seeds = range(seed, seed + pairs)
    kept = None if state is None else Kept(Path(state), source, seeds)
    facts = {"protocol": "paired", "precision": _PRECISION.get(str(how.get("dtype")), "fp32")}
    cells, race = Cells(metrics, **facts), Race(found, nfe, seconds)
    shift = usual = None
    for block in race.rounds(seeds):
        trials = Trials(source, block, long, kept, longer(nfe))
        if not race.done and not all(name.stochastic for name in found):
            shift, usual = _shift(trials), trials.usual_grid
            cells.refer(trials.reference["nfe"], trials.truth())
        label = "solver" if seconds is None else f"seeds {block[0]} to {block[-1]}"
        for group in race.groups(cells.means):
            for name, nfes in race.running(watch(group, label)):
                _meet(cells, trials, name, nfes, grid, options)
        race.halve(cells.means)
    points = cells.points()
    notes = [*_notes(points, found, shift, nfe, trials.reference), *cells.notes]
    if usual is not None and grid is None and any(p.grid == usual and " on " not in p.solver for p in points):
        notes.append(f"on the model's own grid, {usual}, where none is named")
    if race.untried:
        notes.append(f"not tried for lack of time: {', '.join(name.label for name in race.untried)}")
    about = {
        "model": model if isinstance(model, str) else type(source.pipe).__name__,
        "pairs": pairs,
        "seed": seed,
        "reference": "their own longer runs" if shift is None else told(trials.reference),
        "reference_shift": shift,
        "entrants": {str(name): _told(name, grid or usual) for name in found},
    }
    return Curves(points, about, notes, cells.pictures(source, seeds))


def _meet(
    cells: Cells, trials: Trials, name: Contender, nfes: Sequence[int], grid: str | None, options: Mapping[str, Any]
) -> None:
    """Run one of the contenders on a block; where it cannot at one of the nfe, at the others, and a note says why."""
    try:
        cells.add(name, trials.errors(name, nfes, grid, **options), trials)
    except ValueError as error:
        if len(nfes) > 1:
            for n in nfes:
                _meet(cells, trials, name, [n], grid, options)
        else:
            cells.refuse(name, nfes[0], error)


def _told(name: Contender, usual: str | None) -> dict[str, Any]:
    """What a contender is, as JSON."""
    kind = "fixed" if name.learned is None else "learned"
    kind = "adaptive" if name.adaptive else "stochastic" if name.stochastic else kind
    solver = name.entry.name if name.entry is not None else ""
    return {"label": name.label, "kind": kind, "solver": solver, "grid": name.grid or usual}


def _checked(
    solvers: Sequence[str],
    nfe: Sequence[int],
    pairs: int,
    grid: str | None,
    metrics: Sequence[str],
    options: dict,
    reference: Mapping[str, Any] | None,
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
    check_reference(reference)
    return found


def _shift(trials: Trials) -> float:
    """Mean RMSE between the reference and the same solver at half the evaluations, of the first images."""
    few = Trials(trials.source, trials.seeds[:_CHECKED], trials.reference, trials.kept)
    half = few.draw(**{**trials.reference, "nfe": max(1, trials.reference["nfe"] // 2)}).x0
    return float(image_errors(half, trials.truth()[: len(half)]).mean())


def _notes(
    points: Sequence[Point], found: Sequence[Contender], shift: float | None, nfe: Sequence[int], reference: Any
) -> list[str]:
    """What the errors are to, and how far that is to be trusted."""
    said = []
    noisy = [name for name in found if name.stochastic]
    if shift is not None:
        said.append(f"the reference moved by an RMSE of {shift:.2g} from half its evaluations")
        near = [p for p in points if p.solver not in noisy and "rmse" in p.report]
        near = [p for p in near if p.report["rmse"].value < _TRUSTED * shift]
        if near:
            least = min(p.report["rmse"].value for p in near)
            names = ", ".join(f"{Contender(p.solver).label} at {p.nfe}" for p in near)
            said.append(
                f"too near the reference's own error to be ranked: {names}; take one of more nfe, "
                f"about {_enough(reference, shift, least)}"
            )
    if noisy:
        names = ", ".join(name.label for name in noisy)
        said.append(f"{names}: to their own runs of {longer(nfe)} evaluations on the same Brownian paths")
    return said


def _enough(reference: Mapping[str, Any], shift: float, least: float) -> int:
    """Evaluations at which a reference of order p moves by a third of an error:  n (3 shift / error)^(1/p), in fifties."""
    entry = Contender(reference["solver"]).entry
    order = max(1.0, float(entry.order or 1)) if entry is not None else 1.0
    wanted = reference["nfe"] * (_TRUSTED * shift / max(least, 1e-12)) ** (1 / order)
    return min(MOST_ROWS, 50 * ceil(wanted / 50))
