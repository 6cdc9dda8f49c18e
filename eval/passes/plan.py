"""Two sets and an extractor, made ready: everything that can be refused is refused before the first network call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fewstep.eval.classes.labels import Classes, of_numbers
from fewstep.eval.extractors.base import Extractor
from fewstep.eval.extractors.extractor_entry import extractor
from fewstep.eval.gaussian.features import Features, Meta, content_of
from fewstep.eval.gaussian.statfile import holds_statistics, load, located
from fewstep.eval.images.image_sets import ImageSet
from fewstep.eval.images.sources import holds_images, image_set, is_pipeline, of_arrays
from fewstep.eval.passes.collect import collect, require_readable
from fewstep.eval.passes.processes import Facts, Processes
from fewstep.eval.scores.score_entry import Scorer
from fewstep.eval.scores.scoring import Scoring, prompts_for
from fewstep.eval.video.clips import Clips
from fewstep.samplers.noise.random_state import random_state_kept

# Arguments of `evaluate` for the extractor, when it is given by name; for the pass over images; and for sets of images, both
# sides alike. Whatever else is given is for a pipeline that draws.
OF_EXTRACTOR = ("protocol", "weights", "download", "fast", "compile", "layer")
OF_PASS = ("batch_size", "workers", "progress", "resume", "number", "processes", "wait")
OF_IMAGES = ("skip_bad", "range", "key", "layout", "limit", "frames", "stride", "clips")


def comparable(real: Meta, generated: Meta) -> None:
    """ValueError where both sides say what they were made under, and differ."""
    for name, said in (("extractor", "extractors"), ("protocol", "protocols"), ("hash", "weights")):
        one, other = getattr(real, name), getattr(generated, name)
        if one and other and one != other:
            raise ValueError(
                f"features of different {said} cannot be compared: {real.source} was made with {one!r}, "
                f"{generated.source} with {other!r}. Make both with one extractor, protocol and weights."
            )


@dataclass(frozen=True)
class Side:
    """One set as it was given, and its features where they exist already: an object, a file, or bundled ones."""

    source: Any
    features: Features | None = None

    @classmethod
    def of(cls, source: Any, download: bool = False) -> Side:
        if isinstance(source, Features):
            source.check()
            return cls(source, source)
        if isinstance(source, (str, os.PathLike)) and holds_statistics(source):
            return cls(located(source), load(source, download=download))
        return cls(source)

    @property
    def layer(self) -> str | None:
        """The layer of its main features, where it exists already and says so."""
        return None if self.features is None else self.features.layers.get("main")

    @property
    def dim(self) -> int | None:
        """The dimension of its main features, where they exist already."""
        main = None if self.features is None else self.features.statistics.get("main")
        return None if main is None else main.dim

    @property
    def draws(self) -> bool:
        """Whether it is a pipeline."""
        return is_pipeline(self.source)

    @property
    def has_images(self) -> bool:
        """Whether a file of statistics holds images too, as ADM's do."""
        return isinstance(self.source, Path) and holds_images(self.source)


@dataclass
class Planner:
    """How the sets of one evaluation are turned into features; the extractor is made when it is first needed."""

    processes: Processes
    network: str | Extractor
    of_extractor: dict[str, Any]
    of_pass: dict[str, Any]
    of_images: dict[str, Any]
    of_generation: dict[str, Any]
    reference: Meta | None
    dim: int | None = None  # of main features that exist already
    scores: Mapping[str, Callable[[bool], Scorer]] = field(default_factory=dict)  # told whether to download
    featured: bool = True  # whether features are needed, and not scores alone
    words: Any = ()  # prompts by the numbers of the images
    others: Any = None  # real images of the same numbers: others.image(number)
    classes: Classes = field(default_factory=Classes)

    @classmethod
    def begun(cls, real: Side, generated: Side, network: Any, device: Any, how: dict[str, Any]) -> Planner:
        named = (*OF_EXTRACTOR, *OF_PASS, *OF_IMAGES)
        of_extractor, of_pass, of_images = (
            {k: v for k, v in how.items() if k in names} for names in (OF_EXTRACTOR, OF_PASS, OF_IMAGES)
        )
        rest = {k: v for k, v in how.items() if k not in named}
        if rest and not generated.draws:
            raise ValueError(
                f"{', '.join(sorted(rest))}: only a pipeline that draws images takes that; for sets that exist there are "
                f"{', '.join(named)}."
            )
        if "download" in of_extractor and isinstance(network, Extractor):
            del of_extractor["download"]  # it was of the statistics
        metas = [side.features.meta for side in (real, generated) if side.features is not None]
        reference = next((meta for meta in metas if meta.extractor), None)
        if network is None:
            network = reference.extractor if reference else "inception"
            if reference and network == "inception":
                of_extractor.setdefault("protocol", reference.protocol)
                if layer := next((side.layer for side in (real, generated) if side.layer), None):
                    of_extractor.setdefault("layer", layer)
        if device is None and isinstance(network, Extractor):
            device = str(network.device)  # it stays where its owner put it
        share, wait = of_pass.pop("processes", None), of_pass.pop("wait", None)
        processes = Processes.current(device, "shared" if share is None else share, wait)
        dim = next((side.dim for side in (real, generated) if side.dim is not None), None)
        return cls(processes, network, of_extractor, of_pass, of_images, rest, reference, dim)

    def extractor(self, together: bool = True) -> Extractor:
        """Made once, on this process's device; refused where the reference was made with another one.

        together: all processes come, and the first one goes ahead.
        """
        if isinstance(self.network, Scoring):
            return self.network
        if not self.featured:
            return self._scoring(None, together)
        if not isinstance(self.network, Extractor):
            with self.processes.first_goes_ahead() if together else nullcontext():
                self.network = extractor(self.network, **self.of_extractor)
        elif self.of_extractor:
            raise ValueError(f"{', '.join(self.of_extractor)}: an extractor that is made already takes no options.")
        made = self.network
        if made.device != self.processes.device:
            self.network = made = made.to(self.processes.device)
        if self.reference is not None:
            comparable(self.reference, Meta(made.name, made.protocol, made.hash, source="this extractor"))
        if self.dim not in (None, dim := made.layers[made.parts["main"]]):
            raise ValueError(
                f"features of {self.dim} and {dim} dimensions cannot be compared: use one extractor and layer (--layer)."
            )
        return self._scoring(made, together) if self.scores else made

    def _scoring(self, base: Extractor | None, together: bool) -> Extractor:
        """The scores beside the features of `base`. ValueError: a score needs prompts, and there are none."""
        download = bool(self.of_extractor.get("download"))
        with self.processes.first_goes_ahead() if together else nullcontext(), random_state_kept():
            made = {name: make(download) for name, make in self.scores.items()}
        for name, one in made.items():
            if self.others is None and one.prompted and not isinstance(self.words, dict) and not self.words:
                raise ValueError(
                    f"{name} is of images and their prompts: give prompts= (--prompts FILE), one an image in their order"
                )
        self.network = Scoring(base, made, self.words, self.others).eval().to(self.processes.device)
        return self.network

    def plan(self, side: Side, moments: Sequence[str], rows: Sequence[str], real: bool) -> Plan:
        """How one side's features will be had: they exist as far as needed, or its images are there to be looked at."""
        found = side.features
        if not real and self.scores:
            if found is not None:
                raise ValueError(
                    f"{', '.join(self.scores)}: scores are of images, and these are features; give the images"
                )
            if self.others is not None and self.others.count != self.images(side).count:
                raise ValueError(
                    f"{', '.join(self.scores)}: {self.others.count} real images and {self.images(side).count} generated ones "
                    "were given, which make no pairs: give as many of both, in one order"
                )
            self.words = prompts_for(self.words, self.images(side).count, self.of_pass.get("number"), self.processes)
        if self.classes.wanted:
            self.classes.settle(found, None if found is not None else self.images(side), real)
        if found is None:
            return Plan(self, None, self.images(side), tuple(moments), tuple(rows), real)
        no_rows = tuple(part for part in rows if part not in found.rows)
        no_moments = [part for part in moments if part not in found.statistics]
        if no_rows and not no_moments and side.has_images:  # precision and recall against an ADM file
            return Plan(self, found, self.images(side), (), no_rows, real)
        if no_rows or no_moments:
            lacking = [f"all {part} features" for part in no_rows]
            lacking += [f"mean and covariance of the {part} layer" for part in no_moments]
            raise ValueError(
                f"{found.meta.source or 'the statistics'} lack {' and '.join(lacking)}: give the images themselves, or "
                "write the file again with all features (fewstep stats --features) or for sFID (--spatial)."
            )
        return Plan(self, found, None, (), (), real)

    def pair_with(self, real: Side, names: str) -> None:
        """The real images that generated ones of the same numbers are compared with. ValueError: there are none."""
        if real.source is None or real.features is not None:
            raise ValueError(f"{names}: each image is compared with the real one of its number; give the real images")
        self.others = self.images(real)

    def agreed(self, question: str, make: Callable[[], Sequence[Plan | None]]) -> Sequence[Plan | None]:
        """The plans that `make` makes, of a real side (if any) and of a generated one, when all processes ask the same."""
        made: list[Plan | None] = []

        def facts() -> Facts:
            made.extend(make())
            contents = [(lambda: "") if plan is None else plan.content for plan in made]
            return {**self.facts(question), **dict(zip(("images", "references"), contents[::-1], strict=False))}

        self.processes.agree(facts, own=("images",) if self.processes.own else ())
        return made

    def facts(self, question: str) -> Facts:
        """What all processes say alike."""
        network = self.network
        told = network if isinstance(network, str) else f"{network.name} {network.protocol}"
        return {
            "ways of sharing": self.processes.share,
            "questions": question,
            "extractors": f"{told} {sorted(map(str, self.of_extractor.items()))}",
        }

    def images(self, side: Side, **more: Any) -> ImageSet:
        """The images of one side; more: how they are read or drawn, before what was said of all."""
        given = {**self.of_images, **more}
        if isinstance(side.source, ImageSet):
            return side.source
        if "frames" in given:
            return Clips(side.source, **given)
        if odd := [name for name in ("stride", "clips") if name in given]:
            raise ValueError(f"{', '.join(odd)}: of clips of videos, whose number of frames is said too, frames=16")
        if side.draws:
            given = {
                "batch_size": self.of_pass.get("batch_size", 64),
                "device": self.processes.device,
                **self.of_generation,
                **more,
            }
            if "number" in self.of_pass:
                given["number"] = self.of_pass["number"]
        elif not of_arrays(side.source):
            given = {k: v for k, v in given.items() if k not in ("layout", "key")}
        return image_set(side.source, **given)


@dataclass(frozen=True)
class Plan:
    """Features of one side: those that exist, and images from which the others are made by `run`."""

    planner: Planner
    found: Features | None
    images: ImageSet | None
    moments: tuple[str, ...]
    rows: tuple[str, ...]
    real: bool

    @property
    def n(self) -> int | None:
        """Number of images, where it is known."""
        if self.found is not None:
            return self.found.n
        assert self.images is not None
        number = None if self.real else self.planner.of_pass.get("number")
        return min((k for k in (self.images.count, number) if k is not None), default=None)

    def content(self) -> str:
        """What tells these images or features from others, on any machine."""
        if self.images is not None:
            processes = self.planner.processes.sharing() if self.real else self.planner.processes
            require_readable(self.images, processes)
            return self.images.content
        if self.planner.processes.own and not self.real:
            raise ValueError(
                "processes='own' is of images, and features are one set already: update a fewstep.eval.Meter with them"
            )
        assert self.found is not None
        return content_of(self.found)

    def run(self) -> Features:
        """One pass over the images, where there are any."""
        if self.images is None:
            assert self.found is not None
            return self.found
        how: dict[str, Any] = dict(self.planner.of_pass)
        if self.real:
            how = {**how, "number": None}
        network = self.planner.extractor()
        processes = self.planner.processes.sharing() if self.real else self.planner.processes
        seen = collect(self.images, network, statistics=self.moments, rows=self.rows, processes=processes, **how)
        if seen.numbers is not None and (known := self.planner.classes.numbered(processes, self.real)):
            seen.labels = of_numbers(known, seen.numbers, self.images.name)
        if self.found is None:
            return seen
        return replace(self.found, rows={**self.found.rows, **seen.rows}, layers=seen.layers)
