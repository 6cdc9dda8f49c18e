"""`evaluate` and `fid`: any two sets, any metrics, one pass over each."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewstep.errors import unknown

from .collect import collect
from .extractors import Extractor, extractor
from .features import Features, Meta, Metric
from .images import holds_images, image_set, of_arrays
from .metrics import find
from .report import Report, notes
from .result import Result
from .statfile import holds_statistics, load, located, save
from .world import World

# Of the extractor, when it is given by name.
_OF_EXTRACTOR = ("protocol", "weights", "download", "fast", "compile", "model")
_OF_PASS = ("batch_size", "workers", "groups", "progress", "resume", "number", "world")
# Of sets of images, both sides alike; whatever else is given is for a pipeline that draws.
_OF_IMAGES = ("skip_bad", "range", "key", "layout")


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
            name of bundled statistics ("mnist"), Features, or None where no metric needs it (inception score).
        generated: the same, or a diffusers pipeline (then also solver=, nfe=, number= or seeds=, classes= ...).
        metrics: names that `fewstep.eval.metrics.metrics()` lists.
        extractor: "inception", "digits", "dinov2", "clip", or an Extractor; None: the reference's, else inception.
        options: of metrics by name, e.g. {"kid": {"subsets": 50}}.
        device: where the network runs; None is a GPU where there is one.
        how: of the extractor: protocol ("tf", "pytorch-fid", "clean"), weights (a path), download, fast (bf16);
            of the pass: batch_size, workers, groups (error bars), progress, resume (folder), number (of generated images);
            of images: skip_bad, range (of floats), layout, key, and for a pipeline all that `Generated` takes.

    Returns:
        A report with every value, its interval where there is one, and what it was measured under. In several processes
        (accelerate launch, torchrun) every one of them gets the same report.

    Raises:
        ValueError: whatever cannot be evaluated, in words, before the first network call where that can be known.
    """
    wanted = [find(name) for name in metrics]
    chosen = _checked_options(wanted, options or {})
    if real is None and any(metric.real for metric in wanted):
        needing = ", ".join(metric.name for metric in wanted if metric.real)
        raise ValueError(f"{needing} compare with real images: give `real`.")
    begun = time.monotonic()
    sides = _Side.of(real), _Side.of(generated)
    work = _Work.begun(*sides, extractor, device, how)
    a = None if real is None else work.features(sides[0], *_needs(wanted, real=True), real=True)
    b = work.features(sides[1], *_needs(wanted, real=False), real=False)
    spent, begun = time.monotonic() - begun, time.monotonic()
    report = None
    if work.world.first:
        reference = a or Features(None)
        _comparable(reference.meta, b.meta)
        for m in wanted:
            if "device" in m.options:
                chosen[m.name].setdefault("device", work.world.device)
        results = [_told(result, m, a, b) for m in wanted for result in m.compute(reference, b, **chosen[m.name])]
        about = {
            "real": reference.meta.source,
            "generated": b.meta.source,
            "extractor_hash": b.meta.hash,
            "seconds": {"features": round(spent, 2), "metrics": round(time.monotonic() - begun, 2)},
        }
        report = Report(results, about, notes(results, reference.meta, b.meta))
    return work.world.broadcast(report)


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
    network, device, spatial = how.pop("extractor", None), how.pop("device", None), how.pop("spatial", False)
    side = _Side.of(source)
    work = _Work.begun(_Side(None), side, network, device, {"groups": 1, **how})
    parts = ("main", "spatial") if spatial else ("main",)
    found = work.features(side, parts, ("main",) if rows else (), real=False)
    if name:
        found.meta = replace(found.meta, source=name)
    if out is not None and work.world.first:
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


def _needs(wanted: Sequence[Metric], real: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parts of which moments, and of which feature vectors, are needed on one side."""
    on_side = [metric for metric in wanted if metric.real or not real]
    moments = {part for metric in on_side for part in metric.statistics}
    rows = {part for metric in on_side if metric.real_rows or not real for part in metric.rows}
    return tuple(sorted(moments)), tuple(sorted(rows))


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
        precision=meta.precision,
    )


def _comparable(real: Meta, generated: Meta) -> None:
    """ValueError where both sides say what they were made under, and differ."""
    for name, said in (("extractor", "extractors"), ("protocol", "protocols"), ("hash", "weights")):
        one, other = getattr(real, name), getattr(generated, name)
        if one and other and one != other:
            raise ValueError(
                f"features of different {said} cannot be compared: {real.source} was made with {one!r}, "
                f"{generated.source} with {other!r}. Make both with one extractor, protocol and weights."
            )


@dataclass(frozen=True)
class _Side:
    """One set as it was given, and its features where they exist already: an object, a file, or bundled ones."""

    source: Any
    features: Features | None = None

    @classmethod
    def of(cls, source: Any) -> _Side:
        if isinstance(source, Features):
            return cls(source, source)
        if isinstance(source, (str, os.PathLike)) and holds_statistics(source):
            return cls(located(source), load(source))
        return cls(source)

    @property
    def draws(self) -> bool:
        """Whether it is a pipeline."""
        return callable(self.source) and hasattr(self.source, "scheduler")

    @property
    def has_images(self) -> bool:
        """Whether a file of statistics holds images too, as ADM's do."""
        return isinstance(self.source, Path) and holds_images(self.source)


@dataclass
class _Work:
    """How the sets of one evaluation are turned into features; the extractor is made when it is first needed."""

    world: World
    network: str | Extractor
    of_extractor: dict[str, Any]
    of_pass: dict[str, Any]
    of_images: dict[str, Any]
    of_generation: dict[str, Any]
    reference: Meta | None

    @classmethod
    def begun(cls, real: _Side, generated: _Side, network: Any, device: Any, how: dict[str, Any]) -> _Work:
        named = (*_OF_EXTRACTOR, *_OF_PASS, *_OF_IMAGES)
        of_extractor, of_pass, of_images = (
            {k: v for k, v in how.items() if k in names} for names in (_OF_EXTRACTOR, _OF_PASS, _OF_IMAGES)
        )
        rest = {k: v for k, v in how.items() if k not in named}
        if rest and not generated.draws:
            raise ValueError(
                f"{', '.join(sorted(rest))}: only a pipeline that draws images takes that; for sets that exist there are "
                f"{', '.join(named)}."
            )
        metas = [side.features.meta for side in (real, generated) if side.features is not None]
        reference = next((meta for meta in metas if meta.extractor), None)
        if network is None:
            network = reference.extractor if reference else "inception"
            if reference and network == "inception":
                of_extractor.setdefault("protocol", reference.protocol)
        if device is None and isinstance(network, Extractor):
            device = str(network.device)  # it stays where its owner put it
        world = of_pass.pop("world", None) or World.current(device)
        return cls(world, network, of_extractor, of_pass, of_images, rest, reference)

    def extractor(self) -> Extractor:
        """Made once, on this process's device; refused where the reference was made with another one."""
        if not isinstance(self.network, Extractor):
            with self.world.first_goes_ahead():
                self.network = extractor(self.network, **self.of_extractor)
        elif self.of_extractor:
            raise ValueError(f"{', '.join(self.of_extractor)}: an extractor that is made already takes no options.")
        made = self.network
        if made.device != self.world.device:
            self.network = made = made.to(self.world.device)
        if self.reference is not None:
            _comparable(self.reference, Meta(made.name, made.protocol, made.hash, source="this extractor"))
        return made

    def features(self, side: _Side, moments: Sequence[str], rows: Sequence[str], real: bool) -> Features:
        """What one side's metrics need, from existing features as far as they go, from images otherwise."""
        found = side.features
        if found is None:
            return self._collected(side, moments, rows, real)
        no_rows = [part for part in rows if part not in found.rows]
        no_moments = [part for part in moments if part not in found.statistics]
        if no_rows and not no_moments and side.has_images:  # precision and recall against an ADM file
            seen = self._collected(side, (), no_rows, real)
            return replace(found, rows={**found.rows, **seen.rows}, layers=seen.layers)
        if no_rows or no_moments:
            lacking = [f"all {part} features" for part in no_rows]
            lacking += [f"mean and covariance of the {part} layer" for part in no_moments]
            raise ValueError(
                f"{found.meta.source or 'the statistics'} lack {' and '.join(lacking)}: give the images themselves, or "
                "write the file again with all features (fewstep stats --features) or for sFID (--spatial)."
            )
        return found

    def _collected(self, side: _Side, moments: Sequence[str], rows: Sequence[str], real: bool) -> Features:
        """One pass over images."""
        how, given = dict(self.of_pass), dict(self.of_images)
        if side.draws:
            given = {"batch_size": how.get("batch_size", 64), "device": self.world.device, **self.of_generation}
            if "number" in how:
                given["number"] = how.pop("number")
        elif real:
            how.pop("number", None)
            how["groups"] = 1
        if not side.draws and not of_arrays(side.source):
            given = {k: v for k, v in given.items() if k not in ("layout", "key")}
        images = image_set(side.source, **given)
        return collect(images, self.extractor(), statistics=moments, rows=rows, world=self.world, **how)
