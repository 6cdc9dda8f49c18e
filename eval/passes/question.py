"""What is asked of two sets of features: the metrics and their options, what these need, and the report that answers it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from fewstep.checks import unknown
from fewstep.eval.gaussian.features import Features, of_published
from fewstep.eval.metrics.registry import METRICS, Metric
from fewstep.eval.passes.plan import comparable
from fewstep.eval.passes.processes import Processes
from fewstep.eval.report.evaluation_report import Report
from fewstep.eval.report.remarks import notes, precision_of
from fewstep.eval.report.result import Result
from fewstep.eval.video.clips import FRAMES


@dataclass(frozen=True)
class Question:
    """Metrics and the options of each by its name."""

    wanted: tuple[Metric, ...]
    options: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, metrics: Sequence[str | Metric], options: Mapping[str, Mapping[str, Any]] | None) -> Question:
        """ValueError for a metric that is not there or named twice, and for an option that none of them takes."""
        wanted = tuple(name if isinstance(name, Metric) else METRICS.find(name) for name in metrics)
        return cls(wanted, _checked_options(wanted, options or {}))

    @property
    def told(self) -> str:
        """The question in words."""
        return ", ".join(f"{m.name} {dict(self.options[m.name]) or ''}".rstrip() for m in self.wanted)

    @property
    def scores(self) -> dict[str, Callable[[bool], Any]]:
        """What makes the score of each metric that is a mean of one; it is told whether weights may be downloaded."""

        def making(m: Metric) -> Callable[[bool], Any]:
            def make(download: bool) -> Any:
                assert m.score is not None
                may = {"download": True} if download and "download" in m.options else {}
                return m.score(**{**may, **self.options[m.name]})

            return make

        return {m.name: making(m) for m in self.wanted if m.score is not None}

    @property
    def paired(self) -> str:
        """Names of the scores of an image and the real one of its number."""
        return ", ".join(m.name for m in self.wanted if m.paired)

    def usual(self, how: Mapping[str, Any]) -> dict[str, Any]:
        """What was said, and of clips the number of frames where it was not."""
        return {**({"frames": FRAMES} if any(m.clips for m in self.wanted) else {}), **how}

    @property
    def featured(self) -> bool:
        """Whether any metric needs an extractor's features."""
        return any(m.score is None for m in self.wanted)

    @property
    def labelled(self) -> bool:
        """Whether the class of every image is needed."""
        return any(m.labelled for m in self.wanted)

    @property
    def comparing(self) -> str:
        """Names of the metrics that compare with real images."""
        return ", ".join(metric.name for metric in self.wanted if metric.real)

    def needs(self, real: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The parts of which moments, and of which feature vectors, are needed on one side."""
        on_side = [metric for metric in self.wanted if metric.real or not real]
        moments = {part for metric in on_side for part in metric.statistics}
        rows = {
            part
            for metric in on_side
            if not real or metric.vectors_of_real(self.options[metric.name])
            for part in metric.rows
        }
        return tuple(sorted(moments)), tuple(sorted(rows))

    def require_enough(self, real: int | None, generated: int | None) -> None:
        """ValueError where a metric needs more images than a side has; None: not known."""
        for m in self.wanted:
            fewest = m.fewest({**m.options, **self.options[m.name]})
            # Of the real side only where its single images count.
            of_real = m.real and m.rows and m.vectors_of_real(self.options[m.name])
            for side, n, counts in (("real", real, of_real), ("generated", generated, True)):
                if counts and n is not None and n < fewest:
                    raise ValueError(
                        f"{m.name} needs at least {fewest} images; the {side} set has {n}: give more, or {m.remedy}."
                    )

    def report(
        self, processes: Processes, real: Features | None, generated: Features, seconds: float | None = None
    ) -> Report:
        """Every metric's results, found by the first process, for all of them; seconds: that the features took."""
        return processes.of_first(lambda: self._report(processes, real or Features(None), generated, seconds))

    def _report(self, processes: Processes, real: Features, generated: Features, seconds: float | None) -> Report:
        begun = time.monotonic()
        comparable(real.meta, generated.meta)
        real, generated = (_on(side, processes.device) for side in (real, generated))
        results = []
        for m in self.wanted:
            chosen = dict(self.options[m.name])
            if "device" in m.options:
                chosen.setdefault("device", processes.device)
            results += [_told(result, m, real, generated) for result in _computed(m, real, generated, chosen)]
        about = {
            "real": real.meta.source,
            "generated": generated.meta.source,
            "extractor_hash": generated.meta.hash,
            "seconds": {"features": round(seconds or 0.0, 2), "metrics": round(time.monotonic() - begun, 2)},
        }
        return Report(results, about, notes(results, real.meta, generated.meta))


def _on(features: Features, device: torch.device) -> Features:
    """The same with its moments on the device where metrics are computed: those of a file are on the CPU."""
    counted = {part: of for part, of in features.statistics.items() if of.known is not None or of.n > 1}
    return replace(
        features, statistics={**features.statistics, **{part: of.on(device) for part, of in counted.items()}}
    )


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


def _computed(metric: Metric, real: Features, generated: Features, options: Mapping[str, Any]) -> list[Result]:
    """What the metric's function gives. ValueError for anything else than results."""
    found = metric.compute(real, generated, **options)
    if not isinstance(found, (list, tuple)) or not found or not all(isinstance(result, Result) for result in found):
        raise ValueError(
            f"metric {metric.name!r} gave {found!r}: its function returns a list of fewstep.eval.Result, one or more"
        )
    return list(found)


def _told(result: Result, metric: Metric, real: Features, generated: Features) -> Result:
    """The result with what it was measured under."""
    if metric.score is not None:
        return result.under(n=generated.n, extractor=metric.name, higher_is_better=metric.higher_is_better)
    part = (*metric.statistics, *metric.rows)[0]
    meta = generated.meta
    other = real.meta if metric.real else meta
    return result.under(
        n=result.n or generated.n,
        n_real=(result.n_real or real.n) if metric.real else None,
        extractor=meta.extractor,
        protocol=meta.protocol,
        layer=generated.layers.get(part, ""),
        hash=meta.hash,
        precision=precision_of(other, meta),
        published=of_published(other, meta),
        higher_is_better=result.higher_is_better or metric.higher_is_better,
    )
