"""`Meter`: images or features a few at a time, and the report that `evaluate` would give of all of them at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fewstep.eval.classes.labels import Classes
from fewstep.eval.extractors.base import Extractor
from fewstep.eval.gaussian.features import Features, Meta
from fewstep.eval.images.image_sets import digest
from fewstep.eval.meter.beside import Beside
from fewstep.eval.meter.given import all_of, features_in, one_image, require_fit
from fewstep.eval.meter.held import Held, require_state, same_dims
from fewstep.eval.passes.collect import require_readable
from fewstep.eval.passes.gathering import gathered
from fewstep.eval.passes.plan import Planner, Side, comparable
from fewstep.eval.passes.processes import Facts
from fewstep.eval.passes.question import Question
from fewstep.eval.report.evaluation_report import Report
from fewstep.samplers.noise.random_state import random_state_kept
from fewstep.samplers.pipeline.eval_mode import in_eval_mode

SIDES = {False: "generated", True: "real"}
BESIDE = ("prompts", "labels", "originals")


class Meter:
    """Metrics of images that come a few at a time: what `evaluate` says of all of them, however they are divided.

        meter = fe.Meter("mnist", ("fid", "kid_full"))
        for images in batches:
            meter.update(images)
        meter.compute()["fid"], meter.reset()

    Args:
        reference: what `evaluate` takes as `real`; None where real images come by `update(images, real=True)`, or where no
            metric needs any. It is looked at once, by the first `compute`.
        metrics, extractor, options, device: as `evaluate` takes them; the extractor is loaded once, for the first images.
        processes: "own", what each process is given counts; "shared", all are given the same, and each looks at a part;
            "alone", this process asks no other one.
        how: of the extractor, of images and of the pass, as `evaluate` takes them: protocol, weights, range, batch_size, wait;
            real_labels of the reference.

    In several processes `compute` is called by all of them, `update` by each as often as it likes, never too. Neither changes
    global random generators or the mode of a network.

    Raises:
        ValueError: whatever `evaluate` refuses.
    """

    def __init__(
        self,
        reference: Any = None,
        metrics: Sequence[str] = ("fid",),
        *,
        extractor: str | Extractor | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        device: Any = None,
        processes: Any = "own",
        **how: Any,
    ) -> None:
        if odd := sorted({"number", "resume"} & set(how)):
            raise ValueError(
                f"a Meter takes no {', '.join(odd)}: it counts what it is given, and `state_dict` keeps it"
            )
        self.question, theirs = Question.of(metrics, options), how.pop("real_labels", None)
        self._beside = Beside(self.question.labelled, self.question.paired)
        how = self.question.usual(how)
        self._side = Side.of(reference, how.get("download", False))
        if reference is not None and not self.question.comparing:
            raise ValueError(f"{self.question.told} compares with no real images: leave `reference` away")
        with random_state_kept():
            self._planner = Planner.begun(self._side, Side(None), extractor, device, {**how, "processes": processes})
            self._planner.scores, self._planner.featured = self.question.scores, self.question.featured
            self._planner.words = self._beside.prompts
            self._planner.others = self._beside.originals if self.question.paired else None
            self._planner.classes = Classes(self.question.labelled, {False: None, True: theirs})
            real = self.question.needs(True)
            self._plan = None if reference is None else self._planner.plan(self._side, *real, real=True)
            if self._planner.of_extractor.get("download"):
                with self._planner.processes.guarded():
                    self._planner.extractor()
        self._reference: Features | None = None
        self._named = extractor is not None
        self._held = {real: self._empty(real) for real in SIDES}

    def _empty(self, real: bool) -> Held:
        return Held(self.question.needs(real), self._planner.processes, self._planner.of_pass.get("batch_size", 64))

    @property
    def n(self) -> int:
        """Generated images and features that this process has counted."""
        return self._held[False].n

    def __repr__(self) -> str:
        return f"<Meter of {self.question.told}: {self.n} images>"

    def update(self, images: Any, real: bool = False, *, index: Any = None, **how: Any) -> Meter:
        """Count images, or features; returns itself.

        Args:
            images: a tensor or array of images, a PIL image or a list of them, anything that `image_set` reads, a pipeline
                (then also solver=, nfe=, seeds= ...), features (B, d) of the main layer, or of several, {part: (B, d)}.
            real: whether they belong to the reference, where none was given.
            index: a number for each of them, in all processes together; it decides their order where that matters (the
                subsets of KID). None: in turn, the k-th of rank r being k size + r where each process has its own.
            how: range, layout ... of these images, else as they were said of all; prompts (one each, or one text for all),
                labels (one each), originals (the real image of each, in any form): where a score or metric needs them.

        Raises:
            ValueError: no images; features of another size or extractor than the reference's.
        """
        real, beside = bool(real), {name: how.pop(name, None) for name in BESIDE}
        if real and self._side.source is not None:
            raise ValueError("this Meter has its reference already: make it with reference=None to give real images")
        if real and not self.question.comparing:
            raise ValueError(f"{self.question.told} compares with no real images: leave real=True away")
        held = self._held[real]
        with self._quiet():
            if isinstance(images, Features):
                comparable(self._meta(), images.meta)
            features = features_in(images)
            if features is not None:
                require_fit(features, *self._dims())
                numbers, places = held.numbered(len(next(iter(features.values()))), index)
                self._beside.tell(numbers, real, **beside)
                if held.processes.share == "shared" and held.processes.size > 1:
                    held.share([rows.shape for rows in features.values()])
                    held.share(b"".join(rows.cpu().double().numpy().tobytes() for rows in features.values()))
                if len(places):
                    held.add({part: rows[places] for part, rows in features.items()}, numbers[places])
            else:
                self._read([images] if one_image(images) else images, real, index, beside, how)
                self._beside.forget(self._held[False].numbers)
        return self

    def _read(self, source: Any, real: bool, index: Any, beside: dict[str, Any], how: Mapping[str, Any]) -> None:
        """Images that are shown to the network as soon as there is a batch of them."""
        side, held = Side(source), self._held[real]
        given = {"device": None, **how} if side.draws else how
        images, extractor = self._planner.images(side, **given), self._planner.extractor(together=False)
        held.lossy = images.lossy if held.n == 0 or held.lossy == images.lossy else held.lossy or images.lossy or None
        require_readable(images, held.processes)
        if beside["originals"] is not None:
            beside["originals"] = all_of(self._planner.images(Side(beside["originals"]), **how))
        if images.count is None:
            for _, pictures in images.stream(held.batch_size):
                numbers, _ = held.numbered(len(pictures), None)
                self._beside.tell(numbers, real, **beside)
                held.wait(numbers.tolist(), pictures, extractor)
            return
        numbers, places = held.numbered(images.count, index)
        beside["labels"] = images.labels if beside["labels"] is None else beside["labels"]
        self._beside.tell(numbers, real, **beside)
        if held.processes.share == "shared" and held.processes.size > 1:
            held.share(images.content)
        held.read(images, numbers, places, extractor)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        with random_state_kept(), in_eval_mode(self._network):
            yield

    @property
    def _network(self) -> Extractor | None:
        """The extractor, where it is made."""
        network = self._planner.network
        return network if isinstance(network, Extractor) else None

    def _meta(self) -> Meta:
        """Under what features are made, as far as it is known without loading a network."""
        network, reference = self._planner.network, self._planner.reference
        if isinstance(network, Extractor):
            return Meta.of(network)
        if reference is not None and reference.extractor == network:
            return Meta(
                *(getattr(reference, name) for name in ("extractor", "protocol", "hash")), published=reference.published
            )
        return Meta(network, self._planner.of_extractor.get("protocol", "")) if self._named else Meta()

    def _dims(self) -> tuple[dict[str, int], str]:
        found, network = self._side.features, self._planner.network
        if found is not None:
            dims = {part: of.dim for part, of in found.statistics.items()}
            return {**{part: rows.shape[1] for part, rows in found.rows.items()}, **dims}, "the reference"
        for held in self._held.values():
            if held.dims:
                return held.dims, "the others"
        if isinstance(network, Extractor):
            return {part: network.layers[layer] for part, layer in network.parts.items()}, network.name
        return {}, ""

    def compute(self) -> Report:
        """The report on all images so far; more can be counted afterwards. In several processes all call it, and get it.

        Raises:
            ValueError: fewer than two images; processes that were given different references, or the same images of their
                own. TimeoutError: some processes did not come.
        """
        began, processes = time.monotonic(), self._planner.processes
        with self._quiet(), processes.guarded():
            processes.agree(self._facts)
            if self._plan is not None and self._reference is None:
                self._reference = self._plan.run()
            real = self._reference
            if real is None and self.question.comparing:
                real = self._gathered(True)
            generated = self._gathered(False)
            self.question.require_enough(None if real is None else real.n, generated.n)
            return self.question.report(processes, real, generated, time.monotonic() - began)

    def _facts(self) -> Facts:
        facts: dict[str, Any] = {**self._planner.facts(f"Meter {self.question.told}")}
        facts["references"] = "" if self._plan is None else self._plan.content
        if self._planner.processes.share == "shared":
            facts["images"] = digest([held.print for held in self._held.values()])
        return facts

    def _gathered(self, real: bool) -> Features:
        """What all processes have seen of one side."""
        held, processes = self._held[real], self._planner.processes
        n = sum(processes.gather(held.n))
        if n < 2:
            call = "update(images, real=True)" if real else "update(images)"
            raise ValueError(
                f"a Meter needs at least 2 {SIDES[real]} images, and was given {n}: {call} comes before compute"
            )
        metas = processes.gather(self._meta() if held.n else None)
        meta = next(filter(None, metas))
        for other in filter(None, metas):
            comparable(meta, other)
        dims = same_dims(processes.gather(held.dims))
        mine = held.of_dims(dims) if held.shard is None else held.shard.snapshot()
        rest = held.rest(self._network)
        processes.meet()
        layers = processes.gather({} if self._network is None else dict(self._network.parts))
        named = Meta(
            meta.extractor, meta.protocol, meta.hash, meta.precision, source=f"{SIDES[real]} images of a Meter",
            lossy=held.lossy, published=meta.published,
        )  # fmt: skip
        found = gathered(named, next(filter(None, layers), {}), mine, rest, mine.wanted, processes)
        found.labels = self._beside.of(found.numbers, real, processes)
        return found

    def merge(self, other: Meter) -> Meter:
        """Add what another Meter of the same question has counted, in this process; it is left as it was.

        ValueError: another question, extractor, or size of features.
        """
        if other.question.told != self.question.told:
            raise ValueError(f"a Meter of {self.question.told} cannot take one of {other.question.told}")
        comparable(self._meta(), other._meta())
        with self._quiet():
            for real, held in self._held.items():
                if (theirs := other._held[real]).n:
                    if held.dims and theirs.dims != held.dims:
                        same_dims([held.dims, theirs.dims])
                    self._beside.merge(other._beside, real, held.merge(theirs, other._network))
        return self

    def reset(self, real: bool = True) -> None:
        """Forget the generated images, and the real ones that came by `update` unless real=False; the reference stays."""
        for side in SIDES if real else (False,):
            self._held[side], self._beside.labels[side] = self._empty(side), {}

    def state_dict(self) -> dict[str, Any]:
        """What this process has counted: tensors, numbers and words, as torch.save keeps them."""
        meta = self._meta()
        return {
            "question": self.question.told,
            "extractor": [meta.extractor, meta.protocol, meta.hash],
            "beside": self._beside.state(),
            **{name: self._held[real].state() for real, name in SIDES.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` told, of a Meter that was made alike.

        ValueError: the state of another question or extractor, or no state.
        """
        require_state(state, ("question", "extractor", *SIDES.values()), self.question.told)
        comparable(self._meta(), Meta(*state["extractor"], source="the state"))
        held = {real: self._empty(real) for real in SIDES}
        for real, name in SIDES.items():
            held[real].take(state[name])
            if held[real].images:
                self._planner.extractor(together=False)
        self._beside.take(state.get("beside", {}))
        self._held = held
