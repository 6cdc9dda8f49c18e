"""`evaluate` and `fid`: any two sets, any metrics, one pass over each."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewstep.checks import unknown
from fewstep.eval.extractors.base import Extractor
from fewstep.eval.gaussian.features import Features, of_published
from fewstep.eval.gaussian.statfile import save
from fewstep.eval.metrics.registry import METRICS, Metric
from fewstep.eval.passes.plan import Plan, Planner, Side, comparable
from fewstep.eval.report.evaluation_report import Report
from fewstep.eval.report.remarks import notes, precision_of
from fewstep.eval.report.result import Result
from fewstep.output.places import prove_file


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
    metrics: Sequence[str] = ("fid",),
    *,
    extractor: str | Extractor | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    device: Any = None,
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
        how: of the extractor: protocol ("tf", "pytorch-fid", "clean"), weights (a path), layer, download (of its weights, and
            of published statistics), fast (bf16);
            of the pass: batch_size, workers, progress, resume (folder), number (of generated images);
            of images: skip_bad, range (of floats), layout, key, limit (MiB of one); for a pipeline all that `Generated` takes.

    Returns:
        A report with every value, its interval where there is one, and what it was measured under. In several processes
        (accelerate launch, torchrun) every one of them gets the same report.

    Raises:
        ValueError: whatever cannot be evaluated, in words, before the first network call where that can be known.
    """
    wanted = [METRICS.find(name) for name in metrics]
    chosen = _checked_options(wanted, options or {})
    if real is None and any(metric.real for metric in wanted):
        needing = ", ".join(metric.name for metric in wanted if metric.real)
        raise ValueError(f"{needing} compare with real images: give `real`.")
    begun = time.monotonic()
    sides = Side.of(real, how.get("download", False)), Side.of(generated, how.get("download", False))
    planner = Planner.begun(*sides, extractor, device, how)
    plans = [
        None if side.source is None else planner.plan(side, *_needs(wanted, is_real), is_real)
        for side, is_real in zip(sides, (True, False), strict=True)
    ]
    _enough(wanted, chosen, plans)
    a, b = (None if plan is None else plan.run() for plan in plans)
    assert b is not None
    spent, begun = time.monotonic() - begun, time.monotonic()
    report = None
    if planner.processes.first:
        reference = a or Features(None)
        comparable(reference.meta, b.meta)
        for m in wanted:
            if "device" in m.options:
                chosen[m.name].setdefault("device", planner.processes.device)
        results = [_told(result, m, a, b) for m in wanted for result in _computed(m, reference, b, chosen[m.name])]
        about = {
            "real": reference.meta.source,
            "generated": b.meta.source,
            "extractor_hash": b.meta.hash,
            "seconds": {"features": round(spent, 2), "metrics": round(time.monotonic() - begun, 2)},
        }
        report = Report(results, about, notes(results, reference.meta, b.meta))
    return planner.processes.broadcast(report)


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
    parts = ("main", "spatial") if spatial else ("main",)
    found = planner.plan(side, parts, ("main",) if rows else (), real=False).run()
    if name:
        found.meta = replace(found.meta, source=name)
    if out is not None and planner.processes.first:
        save(out, found, half=half)
    return found


def _checked_options(wanted: Sequence[Metric], options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The options of each metric; ValueError for a metric that is not evaluated and for an option it does not take."""
    names = [metric.name for metric in wanted]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"metric {', '.join(sorted(twice))} is named twice.")
    for name, given in options.items():
        if name not in names:
            raise ValueError(f"options for {name!r}, which is not among the metrics {', '.join(names)}.")
        for option in given:
            known = wanted[names.index(name)].options
            if option not in known:
                raise unknown(f"option of {name}", option, known)
    return {name: dict(options.get(name, {})) for name in names}


def _enough(wanted: Sequence[Metric], chosen: Mapping[str, Mapping[str, Any]], plans: Sequence[Plan | None]) -> None:
    """ValueError where a metric needs more images than a side is known to have."""
    for m in wanted:
        fewest = m.fewest({**m.options, **chosen[m.name]})
        needed = (m.rows and m.real_rows, True)  # of the real side, where its single images count
        for plan, counts in zip(plans, needed, strict=True):
            if counts and plan is not None and (m.real or not plan.real) and plan.n is not None and plan.n < fewest:
                side = "real" if plan.real else "generated"
                raise ValueError(
                    f"{m.name} needs at least {fewest} images; the {side} set has {plan.n}: give more, or {m.remedy}."
                )


def _needs(wanted: Sequence[Metric], real: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parts of which moments, and of which feature vectors, are needed on one side."""
    on_side = [metric for metric in wanted if metric.real or not real]
    moments = {part for metric in on_side for part in metric.statistics}
    rows = {part for metric in on_side if metric.real_rows or not real for part in metric.rows}
    return tuple(sorted(moments)), tuple(sorted(rows))


def _computed(metric: Metric, real: Features, generated: Features, options: Mapping[str, Any]) -> list[Result]:
    """What the metric's function gives. ValueError for anything else than results."""
    found = metric.compute(real, generated, **options)
    if not isinstance(found, (list, tuple)) or not found or not all(isinstance(result, Result) for result in found):
        raise ValueError(
            f"metric {metric.name!r} gave {found!r}: its function returns a list of fewstep.eval.Result, one or more"
        )
    return list(found)


def _told(result: Result, metric: Metric, real: Features | None, generated: Features) -> Result:
    """The result with what it was measured under."""
    part = (*metric.statistics, *metric.rows)[0]
    meta = generated.meta
    return result.under(
        n=result.n or generated.n,
        n_real=real.n if real is not None and metric.real else None,
        extractor=meta.extractor,
        protocol=meta.protocol,
        layer=generated.layers.get(part, ""),
        hash=meta.hash,
        precision=precision_of(real.meta if real is not None else meta, meta),
        published=of_published(real.meta if real is not None else meta, meta),
        higher_is_better=result.higher_is_better or metric.higher_is_better,
    )
