"""`evaluate` and `fid`: any two sets, any metrics, one pass over each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewstep.eval.classes.labels import Classes
from fewstep.eval.extractors.base import Extractor
from fewstep.eval.gaussian.features import Features
from fewstep.eval.gaussian.statfile import save
from fewstep.eval.metrics.registry import Metric
from fewstep.eval.passes.plan import Plan, Planner, Side
from fewstep.eval.passes.question import Question
from fewstep.eval.report.evaluation_report import Report
from fewstep.eval.report.result import Result
from fewstep.eval.scores.score_entry import score_metric
from fewstep.output.places import prove_file
from fewstep.samplers.noise.random_state import random_state_kept


def fid(real: Any, generated: Any, **how: Any) -> Result:
    """FID, the squared Frechet distance of Inception features; with another extractor FD-<extractor>.

        FD^2 = |mu_1 - mu_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1 C_2)^(1/2)

        fe.fid("images/", "generated/")
        fe.fid("mnist", pipe, solver="dpmpp_2m", nfe=8, number=1000, classes=range(10))

    The arguments are those of `evaluate`; `float(result)` is the number.
    """
    return evaluate(real, generated, ("fid",), **how)["fid"]


def evaluate(
    real: Any,
    generated: Any,
    metrics: Sequence[str | Metric] = ("fid",),
    *,
    extractor: str | Extractor | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    device: Any = None,
    prompts: Any = None,
    labels: Any = None,
    real_labels: Any = None,
    **how: Any,
) -> Report:
    """Metrics of a generated set against a real one, in one pass over each.

    Args:
        real: folder, .zip, .npz (images, or statistics in any peer's layout), tensor, array, Dataset, iterable of images,
            name of bundled statistics ("mnist") or of published ones ("cifar10-edm"; fewstep stats --known lists them),
            Features, or None where no metric needs it (inception score).
        generated: the same, or a diffusers pipeline (then also solver=, nfe=, number= or seeds=, classes= ...).
        metrics: names that `fewstep metrics` lists; `fewstep.eval.metric` adds others.
        extractor: "inception", "digits", "dinov2", "clip", a name that `fewstep.eval.register_extractor` added, or an
            Extractor; None: the reference's, else inception.
        options: of metrics by name, e.g. {"kid": {"subsets": 50}}.
        device: where the network runs; None is a GPU where there is one.
        prompts: of the generated images, one each in their order, or one text for all; clip_score and its kin need them.
        labels, real_labels: classes of the generated and of the real images, one each in their order, numbers or words; None:
            the folders that the images lie in. fid_per_class and intra_fid need them.
        how: of the extractor: protocol ("tf", "pytorch-fid", "clean"), weights (a path), layer, download (of its weights, and
            of published statistics), fast (bf16);
            of the pass: batch_size, workers (that decode; None, as many as help), progress, resume (folder), number (of
            generated images); where several processes
            run, processes: "shared", all are given the same images and each looks at a part; "own", each is given generated
            images of its own, which are added up; "alone", this one evaluates without the others; and wait, the seconds that
            it waits for the others to begin;
            of videos: frames, stride, clips (of each), see `clips`;
            of images: skip_bad, range (of floats), layout, key, limit (MiB of one); for a pipeline all that `Generated` takes.

    Returns:
        A report with every value, its interval where there is one, and what it was measured under. In several processes
        (accelerate launch, torchrun) every one of them gets the same report.

    Raises:
        ValueError: whatever cannot be evaluated, in words, before the first network call where that can be known; processes
            that were given different images or references, or under "own" the same ones. TimeoutError: some did not come.

    Global random generators are left as they are, and a pipeline's networks in the mode that they were in.
    """
    question = Question.of(metrics, options)
    if real is None and question.comparing:
        raise ValueError(f"{question.comparing} compare with real images: give `real`.")
    how = question.usual(how)
    begun = time.monotonic()
    sides = Side.of(real, how.get("download", False)), Side.of(generated, how.get("download", False))
    planner = Planner.begun(*sides, extractor, device, how)
    planner.scores, planner.featured, planner.words = question.scores, question.featured, prompts
    planner.classes = Classes(question.labelled, {False: labels, True: real_labels})

    if question.paired:
        planner.pair_with(sides[0], question.paired)
        sides = sides if question.comparing else (Side(None), sides[1])

    def plans() -> list[Plan | None]:
        found = [
            None if side.source is None else planner.plan(side, *question.needs(is_real), is_real)
            for side, is_real in zip(sides, (True, False), strict=True)
        ]
        question.require_enough(*(None if plan is None else plan.n for plan in found))
        return found

    with random_state_kept(), planner.processes.guarded():
        a, b = (None if plan is None else plan.run() for plan in planner.agreed(f"evaluate {question.told}", plans))
        assert b is not None
        return question.report(planner.processes, a, b, time.monotonic() - begun)


def score(images: Any, prompts: Any = None, scores: Any = ("clip_score",), **how: Any) -> Report:
    """Scores of single images, with their prompts or without: the mean of each, its interval and the spread.

        fe.score("generated/", prompts, ("clip_score",))
        fe.score(images, scores={"brightness": lambda images: images.float().mean((1, 2, 3))})
        fe.score(images, prompts, scores={"mine": (model, processor)})  # of transformers

    Args:
        images: what `evaluate` takes as `generated`, a pipeline too.
        prompts: one an image in their order, or one text for all.
        scores: names that `fewstep metrics` lists, of `fewstep.eval.register_score`; a function (images) or (images, prompts)
            -> (B,), images being uint8 (B, 3, H, W), or a list where sizes differ; a model and a processor of transformers;
            or several of these by names of yours.
        how: as of `evaluate`.

    Raises:
        ValueError: other than one prompt an image, or one number an image.
    """
    if isinstance(scores, str) or not isinstance(scores, (Mapping, list, tuple)) or _is_pair(scores):
        scores = [scores] if isinstance(scores, str) else {"score": scores}
    named: list[Any] = list(scores)
    if isinstance(scores, Mapping):
        named = [score_metric(name, _giving(made)) for name, made in scores.items()]
    return evaluate(None, images, named, prompts=prompts, **how)


def _is_pair(scores: Any) -> bool:
    """Whether it is (model, processor), and not names."""
    return isinstance(scores, tuple) and not all(isinstance(one, str) for one in scores)


def _giving(made: Any) -> Callable[[], Any]:
    return lambda: made


def stats(
    source: Any,
    out: str | os.PathLike[str] | None = None,
    *,
    rows: bool = False,
    half: bool = False,
    name: str = "",
    **how: Any,
) -> Features:
    """Features of one set, to be compared with later, and written to `out` (.npz).

    Args:
        source: as `real` of `evaluate`.
        out: a file that peers can read too (`mu`, `sigma`).
        rows: keep every feature vector, which KID, precision and recall, and extrapolation need. half: in float16.
        name: what the images are, in words; their place where none is given.
        how: as of `evaluate`: extractor, device, protocol ...; spatial=True adds `mu_s` and `sigma_s` for sFID.
    """
    if out is not None and Path(out).suffix.lower() != ".npz":
        raise ValueError(f"statistics are written as .npz; got {str(out)!r}.")
    if out is not None:
        prove_file(out, "`out`")
    network, device, spatial = how.pop("extractor", None), how.pop("device", None), how.pop("spatial", False)
    side = Side.of(source, how.get("download", False))
    planner = Planner.begun(Side(None), side, network, device, how)
    parts, vectors = ("main", "spatial") if spatial else ("main",), ("main",) if rows else ()
    with random_state_kept(), planner.processes.guarded():
        (plan,) = planner.agreed(f"stats {parts} {vectors}", lambda: [planner.plan(side, parts, vectors, real=False)])
        assert plan is not None
        found = plan.run()
        known = None if plan.images is None else plan.images.labels
        if rows and known is not None and found.numbers is not None and not planner.processes.own:
            found.labels = known[found.numbers]
        if name:
            found.meta = replace(found.meta, source=name)
        if out is not None and planner.processes.first:
            save(out, found, half=half)
        planner.processes.meet()  # the file is there for all
    return found
