"""What is learned on: a model under one guidance, as numbered samples. Sample i is a function of seed i alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor

from fewstep.samplers.artefact.artefact import prediction_name
from fewstep.samplers.learned.problem.fingerprint import Answers, behaviour, fingerprint, hooked, steady
from fewstep.samplers.learned.problem.limits import Limits
from fewstep.samplers.learned.problem.threads import Threads, surviving
from fewstep.samplers.pipeline.prompts import with_prompts
from fewstep.samplers.pipeline.source import Batch, Source
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.sampling.loop import sample
from fewstep.samplers.schedule.base import NoiseSchedule
from fewstep.samplers.table.tableau import Tableau
from fewstep.samplers.validity.domain import networks_of


@dataclass(frozen=True, eq=False)
class Part:
    """Some seeds, their x_T (B, *shape) at t_start, and the network conditioned for them."""

    seeds: tuple[int, ...]
    denoiser: Denoiser
    x_T: Tensor


class Problem(Limits):
    """A denoiser or a pipeline as numbered samples, in parts of at most `batch_size`.

    Args:
        model: Denoiser, diffusers pipeline, or what the command line takes for MODEL ("demo", a folder, a hub id).
        shape: of one sample, for a Denoiser. guidance: scale, for a pipeline; for a Denoiser only a name of what it does.
        classes, prompt: conditions of a pipeline, used in turn by seed; call: any arguments of its own call, lists by seed.
        batch_size: samples at once.
        device: of x_T and of what is loaded. dtype: what a loaded network computes in, or of x_T for a Denoiser (float64
            keeps float64 algebra); None: float32. A pipeline brings its own.

    Attributes:
        schedule, prediction, shape, t_start, t_end: of the model. numbers: of a sample. spent: network evaluations so far,
        samples times calls. most: samples that the network is asked about at once, where that is fewer than a batch.

    Raises:
        ValueError: no `shape` for a Denoiser, or one that the network does not return; a dtype that is none, or another
            than that of a pipeline.
    """

    def __init__(
        self,
        model: Any,
        *,
        shape: Sequence[int] | None = None,
        guidance: float | None = None,
        classes: Sequence[int] | None = None,
        prompt: str | Sequence[str] | None = None,
        call: Mapping[str, Any] | None = None,
        batch_size: int = 64,
        device: Any = None,
        dtype: torch.dtype | str | None = None,
    ) -> None:
        self.model, self.guidance, self.batch_size, self.spent = model, guidance, batch_size, 0
        self._device, self._dtype = device, _floating(dtype)
        self._source: Any = None
        self._parts: dict[tuple[int, ...], Part] = {}
        self._pieces: dict[tuple[int, ...], tuple[Part, ...]] = {}
        if isinstance(model, Denoiser):
            if model.two_times:
                raise ValueError(
                    "learning compares a solver with the flow of a field, and a flow map's answer is for one interval: learn "
                    "on the network that it was distilled from"
                )
            if shape is None:
                raise ValueError(
                    "`shape` is missing: a Denoiser does not say what one of its samples is, e.g. shape=(3, 32, 32)"
                )
            if call:
                raise ValueError(
                    f"`call` is of a pipeline, and a Denoiser has made its own: leave {', '.join(call)} away"
                )
            self.shape, first = tuple(int(n) for n in shape), model
            self.name = getattr(model.fn, "__name__", type(model.fn).__name__)
        else:
            how: dict[str, Any] = {"classes": classes, "prompt": prompt, "guidance": guidance, "batch_size": batch_size}
            how["call"] = call
            self._source = with_prompts(
                Source(model, device=device, dtype=str(self._dtype).removeprefix("torch."), **how)
            )
            first = self.part([0]).denoiser
            self.shape = tuple(self.part([0]).x_T.shape[1:])
            self.name = model if isinstance(model, str) else type(self._source.pipe).__name__
            if dtype is not None and self.dtype != self._dtype:
                raise ValueError(
                    f"`dtype` is {self._dtype}, but this pipeline computes in {self.dtype}: leave `dtype` away, or cast it"
                )
            if shape is not None and tuple(shape) != self.shape:
                raise ValueError(f"`shape` is {tuple(shape)}, but the pipeline draws samples of shape {self.shape}")
        self.schedule: NoiseSchedule = first.schedule
        self.prediction, self.numbers = first.prediction, prod(self.shape)
        self.t_start = float(getattr(first, "t_start", self.schedule.t_max))
        self.t_end = float(self.schedule.t_end)

    def under(self, guidance: float | None) -> Problem:
        """The same model, loaded and hashed once, under another guidance scale."""
        return self.wishing(guidance=guidance)

    def wishing(self, **wishes: Any) -> Problem:
        """The same model, called otherwise: another guidance, prompt, classes, or entries of its call."""
        other = copy.copy(self)
        other.guidance = wishes.get("guidance", self.guidance)
        other.spent, other._parts, other._pieces = 0, {}, {}
        if self._source is not None:
            call = {**self._source.wishes.get("call", {}), **wishes.pop("call", {})}
            other._source = self._source.wishing(**wishes, **({"call": call} if call else {}))
        other.__dict__.pop("behaviour", None)  # which the call is part of
        first = other.part([0])  # what the pipeline does not take is refused here
        other.shape, other.numbers = tuple(first.x_T.shape[1:]), first.x_T[0].numel()
        return other

    def part(self, seeds: Sequence[int]) -> Part:
        """These seeds, together in one batch; of seeds that cannot be drawn together, those that can with the first."""
        key = tuple(self._alike(seeds, len(seeds))[0])
        if key not in self._parts:
            self._parts[key] = self._made(key)
        return self._parts[key]

    def _made(self, seeds: tuple[int, ...]) -> Part:
        if self._source is not None:
            batch = Batch(self._source, seeds)
            if len(batch.x_T) != len(seeds):
                raise ValueError(
                    f"this pipeline steps {len(batch.x_T)} states for {len(seeds)} samples, both halves of guidance, say, so "
                    "that a seed has none of its own: learn without guidance (guidance=1)"
                )
            return Part(seeds, batch.denoiser, batch.x_T)
        own = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn = self.model.schedule.initial_noise((len(seeds), *self.shape), own, dtype=self._dtype)
        return Part(seeds, self.model, drawn.to(self._device))

    def alone(self, seed: int) -> Part:
        """One seed in a batch of its own, made anew."""
        return self._made((seed,))

    @property
    def source(self) -> Source | None:
        """Of a pipeline's samples; None for a Denoiser."""
        found: Source | None = self._source
        return found

    def pieces(self, part: Part) -> tuple[Part, ...]:
        """A part as parts for `threads`, of two samples at least, and of at most `most`."""
        count = max(
            min(self.threads.count, len(part.seeds) // 2), -(-len(part.seeds) // (self.most or len(part.seeds)))
        )
        if count < 2 or self._parts.get(part.seeds) is not part:
            return (part,)
        if part.seeds not in self._pieces:
            bounds = [len(part.seeds) * i // count for i in range(count + 1)]
            self._pieces[part.seeds] = tuple(self._made(part.seeds[i:j]) for i, j in pairwise(bounds))
        return self._pieces[part.seeds]

    @torch.no_grad()
    def ask(self, part: Part, x: Tensor, tau: Tensor) -> Tensor:
        """The network's output on a part at x (B, *shape)."""
        self.spent += len(part.seeds)

        def work() -> Tensor:
            pieces = self.pieces(part)
            shares = x.split([len(piece.seeds) for piece in pieces])
            return torch.cat(self.threads.map(lambda i: pieces[i].denoiser.call(shares[i], tau), range(len(pieces))))

        return surviving(self.halve, work)

    def asked(self, part: Part) -> float:
        """Network evaluations of a part's samples so far, in one piece or several."""
        pieces = self._pieces.get(part.seeds, ())
        if pieces and pieces[0].denoiser is part.denoiser:  # which counts the calls of all pieces
            return len(part.seeds) * part.denoiser.nfe / len(pieces)
        return sum(len(one.seeds) * one.denoiser.nfe for one in (part, *pieces))

    def parts(self, seeds: Sequence[int], size: int | None = None) -> list[Part]:
        """The seeds in batches of at most `size`, those of one shape and scale together."""
        return [self.part(few) for few in self._alike(seeds, min(size or self.batch_size, self.batch_size))]

    def _alike(self, seeds: Sequence[int], size: int) -> list[list[int]]:
        own = [int(seed) for seed in seeds]
        if self._source is not None:
            return self._source.calls.alike(own, size if self._source.shares else 1, apart=False)
        return [own[k : k + size] for k in range(0, len(own), size)]

    def draw(self, table: Tableau, part: Part, **how: Any) -> Tensor:
        """x0 (B, *shape) of a part by a table; noise is that of one Brownian path a seed, whatever the number of steps."""
        self.spent += len(part.seeds) * table.nfe
        drawn = partial(self.drawn, table, **how)
        return surviving(self.halve, lambda: torch.cat(self.threads.map(drawn, self.pieces(part))))

    @staticmethod
    @torch.no_grad()
    def drawn(table: Tableau, part: Part, **how: Any) -> Tensor:
        """The same in one piece, in the caller's thread and not counted."""
        noise: dict[str, Any] = {}
        if table.stochastic:
            noise = {"noise": "brownian", "noise_seeds": list(part.seeds)}
        x0: Tensor = sample(part.denoiser, part.x_T, table, check="none", **noise, **how)
        return x0

    @cached_property
    def threads(self) -> Threads:
        """Several for a pipeline on a CPU, where every part has its own loop; one where calls may remember each other."""
        beside = self._source is not None and self.part([0]).x_T.device.type == "cpu" and not hooked(self._source.pipe)
        return Threads(torch.get_num_threads() if beside else 1)

    @cached_property
    def weights(self) -> str:
        """Hash of a few weights of every tensor of the model, none for a function, and of what it predicts."""
        return fingerprint(steady(self._about), self._modules, ())

    @cached_property
    def fingerprint(self) -> str:
        """The same for artefacts, all of it to the last bit; of a function, what it returns on a fixed input is told too."""
        answers: list[Tensor] = []
        if self._source is None and not self._modules:
            x, middle = self.part([0, 1]).x_T, 0.5 * (self.t_start + self.t_end)
            with torch.no_grad():
                answers = [self.model(x, t) for t in (self.t_start, middle)]
        return fingerprint(self._about, self._modules, answers)

    @property
    def _about(self) -> tuple[Any, ...]:
        return self.schedule.key, prediction_name(self.prediction), self.shape

    @property
    def _modules(self) -> list[torch.nn.Module]:
        if self._source is not None:
            return list(networks_of(self._source.pipe).values())
        return [self.model.fn] if isinstance(self.model.fn, torch.nn.Module) else []

    @cached_property
    def behaviour(self) -> Answers | None:
        """What the model answers, condition and guidance included, at three states between noise and data.

        None, with a warning, for a model that answers otherwise when it is asked again.
        """
        part, first = self.part([0, 1][: self.batch_size]), self.schedule.nodes(self.t_start).S
        times = [self.t_start + share * (self.t_end - self.t_start) for share in (0.0, 0.5, 0.9)]
        states = [part.x_T * float(self.schedule.nodes(t).S / first) for t in times]
        return behaviour(lambda: [part.denoiser(x, t) for x, t in zip(states, times, strict=True)])

    @property
    def domain(self) -> dict[str, Any]:
        """Where what is learned here is valid: scales of guidance, adapters, shapes that were drawn, dtype."""
        shapes = sorted({tuple(part.x_T.shape[1:]) for part in self._parts.values()} or {self.shape})
        told: dict[str, Any] = {"shapes": [list(shape) for shape in shapes]}
        told["dtype"] = str(self.dtype).removeprefix("torch.")
        if self._source is None:
            known = self.model.told(weights=True)
            if "guidance" in known:
                known["guidance"] = {name: [scale] for name, scale in known["guidance"].items()}
            return {**told, **known}
        return {**told, **self._source.place}

    @property
    def condition(self) -> str:
        """What samples are conditioned on, in words: part of the name of everything that is kept of them."""
        return repr({**self.conditions, "guidance": self.guidance})

    @property
    def dtype(self) -> torch.dtype:
        """What the network takes; states are kept in float32 at least."""
        return self.part([0]).x_T.dtype

    @property
    def conditions(self) -> dict[str, Any]:
        """What a pipeline is called with, where it is: plain, the same however it was given."""
        return {} if self._source is None else self._source.conditions


def _floating(dtype: torch.dtype | str | None) -> torch.dtype:
    """A dtype by itself or by name. ValueError for one that is no floating point."""
    found = torch.float32 if dtype is None else getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"`dtype` must be a floating point one, such as torch.bfloat16 or 'bfloat16'; got {dtype!r}")
    return found


def squared_errors(x0: Tensor, truth: Tensor) -> Tensor:
    """Mean square difference of each sample: (B, *shape), (B, *shape) -> (B,) float64 on the CPU; inf where not finite."""
    found = (x0.double() - truth.to(x0.device).double()).flatten(1).square().mean(1).cpu()
    return torch.where(found.isfinite(), found, torch.inf)
