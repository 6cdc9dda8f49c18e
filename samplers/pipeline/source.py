"""A diffusers pipeline as a source of numbered samples: sample i is a function of seed i and of nothing else."""

import copy
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, fromarray

from fewstep.devices import chosen_device, loaded_in
from fewstep.samplers.noise.random_state import random_state_kept
from fewstep.samplers.pipeline.calls import SHORT, Calls, call_arguments, described, gives_tensors, words_in
from fewstep.samplers.pipeline.contenders import Contender
from fewstep.samplers.pipeline.encoding import Encoded
from fewstep.samplers.pipeline.eval_mode import in_eval_mode
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.sampling.loop import sample
from fewstep.samplers.sampling.watching import Info
from fewstep.samplers.validity.domain import adapters_of, scales_of, weights_of


def load_pipeline(model: str, device: torch.device, dtype: torch.dtype) -> Any:
    """`demo`, or a folder or hub id of a diffusers pipeline, on a device and without its own progress bar.

    Raises:
        ValueError: a folder without a pipeline in it, or a path that is not there.
        OSError: neither a folder here nor a repository that the hub would give.
    """
    with random_state_kept():  # networks are made with random weights before they have their own
        pipe = _loaded(model, device, dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _loaded(model: str, device: torch.device, dtype: torch.dtype) -> Any:
    folder = Path(model).expanduser()
    if model == "demo":
        from fewstep.demo.loading import load_demo_pipeline

        return load_demo_pipeline(device, dtype)
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise ValueError(
            f"{model} is no diffusers pipeline: it has no model_index.json; give what save_pretrained wrote"
        )
    if not folder.exists() and (folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1):
        raise ValueError(f"{model} does not exist; give a folder or hub id of a diffusers pipeline, or demo")
    from diffusers.utils import logging

    kind = kind_of(folder)
    said = logging.get_verbosity()
    logging.set_verbosity_error()  # a failure is told in one sentence, ours
    try:
        how = {} if dtype == torch.float32 else loaded_in(dtype)
        pipe = kind.from_pretrained(str(folder) if folder.exists() else model, **how)
    except OSError as error:
        reason = str(error).strip().split("\n")[0]
        raise OSError(f"cannot load {model!r}, neither a folder here nor to be had from the hub: {reason}") from error
    finally:
        logging.set_verbosity(said)
    return pipe.to(device)


def kind_of(folder: Path) -> Any:
    """The class that opens a folder: that of fewstep which it names, or the general one. ValueError for somebody else's class.

    Code that lies in a folder is never run.
    """
    import diffusers

    from fewstep.demo.pipeline import OWN

    said: Any = None
    with suppress(OSError, ValueError, AttributeError):  # what is wrong with the file, the general class tells
        said = json.loads((folder / "model_index.json").read_text(encoding="utf-8")).get("_class_name")
    if isinstance(said, str) and said in OWN:
        return OWN[said]
    if (isinstance(said, list) and said) or (isinstance(said, str) and not hasattr(diffusers, said)):
        name = said if isinstance(said, str) else said[-1]
        raise ValueError(
            f"{folder} is for {name}, a class that diffusers does not have: open it by that class yourself and pass the "
            "pipeline, since code that lies in a folder is not run"
        )
    return diffusers.DiffusionPipeline


class Batch:
    """Some seeds, their x_T and the pipeline as a denoiser for them. start: makes another x_T of the pipeline's own.

    What it does by itself it does with the pipeline's networks in eval mode. tensors: decode to these in place of pictures,
    where the pipeline gives the same values in them.
    """

    def __init__(
        self, source: "Source", seeds: Sequence[int], start: "Start | None" = None, tensors: bool = False
    ) -> None:
        self.seeds, self.guidance, self.pipe = list(seeds), source.wishes["guidance"], source.pipe
        call = source.calls.together(self.seeds)
        if "batch_size" in source.calls.accepted and "class_labels" not in call and not words_in(call):
            call["batch_size"] = len(self.seeds)
        self.tensors = tensors and "output_type" not in call and gives_tensors(source.pipe)
        if self.tensors:
            call["output_type"] = "pt"
        self.denoiser: Any = Denoiser.from_pipeline(source.pipe, **call)
        loop: Any = self.denoiser.fn
        loop.encoded = source.encoded
        with in_eval_mode(source.pipe):
            self.x_T = self.denoiser.initial_noise([torch.Generator().manual_seed(seed) for seed in seeds])
        if start is not None:
            self.x_T = start(self)

    def __str__(self) -> str:
        return f"seeds {self.seeds[0]} to {self.seeds[-1]}"

    def run(self, **how: Any) -> tuple[torch.Tensor, Info]:
        """x0 (B, *shape) on the CPU and what the run did; as `sampled`."""
        x0, info = self.sampled(**how)
        return x0.cpu(), info

    @torch.no_grad()
    def sampled(self, **how: Any) -> tuple[torch.Tensor, Info]:
        """x0 (B, *shape) where it was made and what the run did, by `sample` with these solver, nfe, grid and options.

        A solver may be a learned artefact or a table, by its file; grid and options are not meant for it.
        """
        told = Contender(how.pop("solver")).run(how, self.guidance) if "solver" in how else how
        with in_eval_mode(self.pipe):
            x0, info = sample(self.denoiser, self.x_T, noise_seeds=self.seeds, return_info=True, **told)
        return x0, info

    def draw(self, **how: Any) -> torch.Tensor:
        """x0 (B, *shape) on the CPU."""
        return self.run(**how)[0]

    @torch.no_grad()
    def images(self, x0: torch.Tensor) -> list[Image]:
        """x0 (B, *shape) as the pipeline's own pictures. ValueError for an `output_type` that is none."""
        with in_eval_mode(self.pipe):
            return [_picture(drawn) for drawn in self.denoiser.decode(x0.to(self.x_T.device))]

    @torch.no_grad()
    def decoded(self, x0: torch.Tensor) -> torch.Tensor:
        """x0 (B, *shape) as images (B, C, H, W) in [0, 1], which stay where they are made; of a batch with `tensors`."""
        with in_eval_mode(self.pipe):
            found: torch.Tensor = self.denoiser.decode(x0)
        return found


def _picture(drawn: Any) -> Image:
    """A picture, or values in [0, 1], (C, H, W) in a tensor and (H, W, C) in an array, as a picture."""
    if isinstance(drawn, Image):
        return drawn
    values = np.asarray(drawn.detach().float().cpu().movedim(0, -1) if isinstance(drawn, torch.Tensor) else drawn)
    if values.ndim != 3 or values.shape[-1] not in (1, 3):
        raise ValueError(
            f"pictures are needed, and this call's `output_type` gives {tuple(values.shape)}: leave it away, or 'pil'"
        )
    levels = (values * 255).round().clip(0, 255).astype(np.uint8)
    return fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)


Start = Callable[[Batch], torch.Tensor]


@torch.no_grad()
def drawn_alike(source: "Source", seeds: Sequence[int]) -> bool:
    """Whether a batch answers for each of its seeds what a batch of one does, to rounding; False where it cannot be made."""
    with in_eval_mode(source.pipe):
        try:
            batch = Batch(source, seeds)
            t = 0.5 * (batch.denoiser.t_start + batch.denoiser.schedule.t_end)
            found = torch.cat([batch.x_T, batch.denoiser(batch.x_T, t)], 1)
        except (ValueError, RuntimeError, TypeError, IndexError):
            return False
        alone = [Batch(source, [seed]) for seed in seeds]
        want = torch.cat([torch.cat([one.x_T, one.denoiser(one.x_T, t)], 1) for one in alone])
    return found.shape == want.shape and same_answers(found, want)


def same_answers(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two answers differ by no more than rounding in their dtype does in a deep network."""
    near = 1e-3 if torch.finfo(one.dtype).eps < 1e-4 else 0.1
    return float((one - other).double().norm()) <= near * float(other.double().norm())


class Source:
    """MODEL of the command line, loaded, or a pipeline that is: `batches(seeds)` are ready to be drawn.

    A pipeline given as an object stays where it is and as precise as it is, unless a device is named. call: arguments of the
    pipeline's own call, of which a list is taken in turn by seed (`Calls`); classes, prompt and guidance are short forms.
    """

    def __init__(
        self,
        model: Any,
        *,
        device: str | None = None,
        dtype: str = "float32",
        batch_size: int = 64,
        classes: Sequence[int] | None = None,
        prompt: str | Sequence[str] | None = None,
        guidance: float | None = None,
        call: Mapping[str, Any] | None = None,
    ) -> None:
        self.batch_size, self.encoded = batch_size, Encoded()
        if isinstance(model, (str, Path)):
            self.pipe = load_pipeline(str(model), chosen_device(device), getattr(torch, dtype))
        else:
            self.pipe = model if device is None else model.to(chosen_device(device))
        many = (
            getattr(self.pipe, "null_class", None) if isinstance(model, str | Path) else None
        )  # pipelines of this library
        if many is not None and classes is None and "class_labels" not in (call or {}):
            classes = range(many)
        self.wishes: dict[str, Any] = {"classes": classes, "prompt": prompt, "guidance": guidance}
        if call:
            self.wishes["call"] = dict(call)

    @property
    def accepted(self) -> Mapping[str, Any]:
        """What the pipeline takes."""
        return inspect.signature(self.pipe.__call__).parameters

    @cached_property
    def calls(self) -> Calls:
        """What the pipeline is called with, by seed."""
        return Calls(self.pipe, call_arguments(self.pipe, self.wishes))

    def wishing(self, **wishes: Any) -> "Source":
        """The same pipeline with other wishes, which take the place of those in `call`; what was encoded is shared."""
        other = copy.copy(self)
        call = dict(wishes.get("call", self.wishes.get("call")) or {})
        for wish, parameter in SHORT.items():
            if wishes.get(wish) is not None:
                call.pop(parameter, None)
        other.wishes = {**self.wishes, **wishes, **({"call": call} if "call" in (self.wishes | wishes) else {})}
        for name in ("calls", "shares"):
            other.__dict__.pop(name, None)
        return other

    @property
    def content(self) -> dict[str, Any]:
        """The wishes as JSON that tells them from others."""
        told = {name: self.wishes[name] for name in ("classes", "prompt", "guidance")}
        return {**told, **({"call": described(self.wishes["call"])} if "call" in self.wishes else {})}

    @property
    def conditions(self) -> dict[str, Any]:
        """What samples are conditioned on, guidance apart, as JSON: the same however it was given."""
        classes, prompt = self.wishes["classes"], self.wishes["prompt"]
        found: dict[str, Any] = {} if classes is None else {"classes": [int(label) for label in classes]}
        if prompt is not None:
            found["prompt"] = [prompt] if isinstance(prompt, str) else [str(words) for words in prompt]
        call = described(self.wishes.get("call") or {})
        for name, short in (("prompt", "prompt"), ("class_labels", "classes")):
            if isinstance(value := call.get(name), str | list):
                found[short] = [call.pop(name)] if isinstance(value, str) else call.pop(name)
        return {**found, **({"call": call} if call else {})}

    @property
    def place(self) -> dict[str, Any]:
        """Scales of guidance that are drawn with, adapters and weights, as an artefact's domain names them."""
        each = [scales_of(self.pipe, self.calls.of(seed)) for seed in range(self.calls.period)]
        guidance = {name: sorted({one[name] for one in each if name in one}) for name in each[0]}
        return {"guidance": guidance, "adapters": adapters_of(self.pipe), "weights": weights_of(self.pipe)}

    def batches(
        self, seeds: Sequence[int], alone: bool = False, start: Start | None = None, tensors: bool = False
    ) -> list[Batch]:
        """The seeds in batches of at most `batch_size` that can be drawn together; alone: of one, for adaptive solvers."""
        size = 1 if alone or not self.shares else self.batch_size
        return [Batch(self, part, start, tensors) for part in self.calls.alike(seeds, size)]

    @cached_property
    def shares(self) -> bool:
        """Whether samples are drawn in one batch as alone: pipelines may take a list of pictures for one sample.

        Asked of two samples where there are pictures; of words, embeddings and labels it is known.
        """
        if not self.calls.looks or self.batch_size == 1:
            return True
        pairs = [pair for pair in self.calls.alike(range(2 * self.calls.period), 2, apart=False) if len(pair) == 2]
        return not pairs or drawn_alike(self, pairs[0])
