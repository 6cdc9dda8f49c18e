"""Images drawn by a diffusers pipeline while they are read: image i is a function of seed i, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewstep.eval.feed.ahead import Batch
from fewstep.eval.feed.quantising import batch_of_levels, black
from fewstep.eval.feed.stopwatch import Stopwatch
from fewstep.eval.images.decode import from_picture
from fewstep.eval.images.image_sets import Fetched, ImageSet, digest
from fewstep.eval.images.sobol import DIMENSIONS, Sobol
from fewstep.output.pictures import save_image
from fewstep.output.places import prove_folder
from fewstep.samplers.pipeline.calls import gives_tensors
from fewstep.samplers.pipeline.contenders import contenders
from fewstep.samplers.pipeline.source import Source


class Generated(ImageSet):
    """What `fewstep sample --out DIR/` would save, pixel for pixel, without the files.

        Generated("demo", solver="dpmpp_2m", nfe=5, number=1000)

    A block is drawn in batches of `batch_size`; images of another batch size may differ by a level here and there, as
    floating-point sums do. Images stay on the device that made them, without pictures of PIL, where the pipeline gives them as
    tensors; those that are kept in files do not.

    Args:
        model: folder or hub id of a pipeline, "demo", a pipeline, or a `Source` (which then has `how` already).
        solver: a name that `fewstep solvers` lists, or a learned artefact (by its file, too).
        nfe: network evaluations; 8 where nothing is said, no limit for solvers that choose their steps.
        number: so many images, of the seeds 0, 1, ...
        seeds: of the images, instead of `number`.
        grid, noise, options: as `sample` takes them.
        keep: folder to save the images in while they are drawn, SEED.png.
        sobol: initial noise from a scrambled Sobol sequence, point s for seed s; see `Sobol`. scramble: its seed.
        how: classes, prompt, guidance, call, batch_size, device, dtype; see `Source`.

    Attributes:
        seeds: one an image.
        seconds: time spent drawing so far, by the clock, on a GPU by its own.
        evaluations: of the network, a mean an image drawn so far.

    Raises:
        ValueError: whatever `sample` refuses, before anything is loaded where that can be known; equal seeds.
    """

    def __init__(
        self,
        model: Any = "demo",
        solver: Any = "dpmpp_2m",
        nfe: int | None = None,
        *,
        number: int | None = None,
        seeds: Sequence[int] | None = None,
        grid: str | None = None,
        noise: str = "independent",
        options: Mapping[str, Any] | None = None,
        keep: str | Path | None = None,
        sobol: bool = False,
        scramble: int = 0,
        **how: Any,
    ) -> None:
        self.seeds = _seeds(number, seeds)
        (chosen,) = contenders([solver], [] if nfe is None else [nfe], grid, dict(options or {}))
        self.adaptive = chosen.adaptive
        nfe = 8 if nfe is None and not self.adaptive else nfe
        self.spec = {"solver": chosen, "nfe": nfe, "grid": grid, "noise": noise, **(options or {})}
        self.start = Sobol(scramble) if sobol else None
        self.keep = None if keep is None else Path(keep)
        if self.keep is not None:
            prove_folder(self.keep, "`keep`")
        if isinstance(model, Source) and how:
            raise ValueError(f"a Source is made already; it takes no {', '.join(sorted(how))}")
        self.source = model if isinstance(model, Source) else Source(model, **how)
        self.model = model if isinstance(model, str) else type(self.source.pipe).__name__
        super().__init__(self._told(), len(self.seeds), lossy=False)
        self._watch, self._spent, self._drawn = Stopwatch(), 0, 0

    def _told(self) -> str:
        nfe = self.spec["nfe"]
        words = [f"{self.model}, {self.spec['solver'].label}", f"{nfe} evaluations" if nfe else "its own steps"]
        words += [f"grid {self.spec['grid']}"] if self.spec["grid"] else []
        words += [f"Sobol noise in up to {DIMENSIONS} dimensions"] if self.start else []
        return ", ".join([*words, f"seeds {self.seeds[0]} to {self.seeds[-1]}"])

    @property
    def seconds(self) -> float:
        return self._watch.seconds

    @property
    def evaluations(self) -> float:
        return self._spent / max(self._drawn, 1)

    def label(self, index: int) -> str:
        return f"seed {self.seeds[index]} of {self.name}"

    def fetch(self, block: range) -> Fetched:
        """The images of a block, drawn batch by batch."""
        for part in self._parts(block):
            drawn = self._pictures([self.seeds[i] for i in part])
            images = drawn.cpu() if isinstance(drawn, torch.Tensor) else map(from_picture, drawn)
            yield from zip(part, images, strict=True)

    def whole(self, blocks: Iterable[range], device: torch.device) -> Iterator[Batch] | None:
        """Batches as they are drawn, which never leave the device."""
        if device.type == "cpu" or not self._tensors:
            return None
        return (
            Batch(np.array(part), [self._pictures([self.seeds[i] for i in part])], _with_codes)
            for block in blocks
            for part in self._parts(block)
        )

    def _parts(self, block: range) -> list[range]:
        """What is drawn together."""
        size = 1 if self.adaptive else self.source.batch_size
        return [block[k : k + size] for k in range(0, len(block), size)]

    @property
    def _tensors(self) -> bool:
        return self.keep is None and gives_tensors(self.source.pipe) and "output_type" not in self.source.calls.given

    def _pictures(self, seeds: Sequence[int]) -> Any:
        """One batch: uint8 (B, 3, H, W) where it was made, or the pipeline's own pictures."""
        with self._watch.running(torch.device(getattr(self.source.pipe, "device", "cpu"))):
            (batch,) = self.source.batches(seeds, self.adaptive, self.start, tensors=self._tensors)
            x0, info = batch.sampled(**self.spec)
            if batch.tensors:
                drawn: Any = batch_of_levels(batch.decoded(x0).nan_to_num(), (0, 1))[0]
            else:
                drawn = batch.images(x0)
        self._spent += info.nfe * len(seeds)
        self._drawn += len(seeds)
        if self.keep is not None:
            for seed, picture in zip(seeds, drawn, strict=True):
                save_image(picture, self.keep / f"{seed:06d}.png")
        return drawn

    def answers(self) -> np.ndarray | None:
        """x0 of two network evaluations from the first seed; None where it is another one when it is asked for again."""
        first, again = (
            self.source.batches(self.seeds[:1])[0].draw(solver="ddim", nfe=2).double().numpy() for _ in range(2)
        )
        return first if np.array_equal(first, again) else None

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]  # found once
        start = None if self.start is None else self.start.scramble
        seeds = str(self.seeds) if isinstance(self.seeds, range) else list(self.seeds)
        spec = {**self.spec, "solver": self.spec["solver"].identity}
        return digest(_identity(self.source.pipe), self.source.content, spec, start, seeds)


def _with_codes(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a safety checker, or NaN in a decoder, has left black can be used, and is told."""
    return pixels, black(pixels)


def _seeds(number: int | None, seeds: Sequence[int] | None) -> Sequence[int]:
    if (number is None) == (seeds is None):
        raise ValueError("say either number= (of images, from seed 0) or seeds=")
    seeds = range(number or 0) if seeds is None else seeds
    if len(seeds) == 0:
        raise ValueError("no images: `number` and the length of `seeds` are at least 1")
    if not isinstance(seeds, range):
        seeds = [int(seed) for seed in seeds]
        if len(set(seeds)) < len(seeds):
            raise ValueError("some `seeds` are equal, and so would be their images; give each once")
    return seeds


def _identity(pipe: Any) -> str:
    """Hash of a pipeline: its class, its scheduler's config, and shape, dtype and first 64 numbers of every weight."""
    parts = [v for _, v in sorted(vars(pipe).items()) if isinstance(v, torch.nn.Module)]
    weights = (w for part in parts for w in part.state_dict().values())
    return digest(type(pipe).__name__, dict(pipe.scheduler.config), *(_first(w) for w in weights))


def _first(w: torch.Tensor) -> bytes:
    some = b"" if w.is_meta else w.detach().flatten()[:64].double().cpu().numpy().tobytes()
    return f"{tuple(w.shape)}{w.dtype}".encode() + some
