"""A diffusers pipeline as a source of numbered samples: sample i is a function of seed i and of nothing else."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from fewstep.devices import chosen_device, loaded_in
from fewstep.samplers.pipeline.contenders import Contender
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.sampling.loop import sample
from fewstep.samplers.sampling.watching import Info


def load_pipeline(model: str, device: torch.device, dtype: torch.dtype) -> Any:
    """`demo`, or a folder or hub id of a diffusers pipeline, on a device and without its own progress bar.

    Raises:
        ValueError: a folder without a pipeline in it, or a path that is not there.
        OSError: neither a folder here nor a repository that the hub would give.
    """
    folder = Path(model).expanduser()
    if model == "demo":
        from fewstep.demo.loading import load_demo_pipeline

        pipe: Any = load_demo_pipeline(device, dtype)
    elif folder.exists() and not (folder / "model_index.json").is_file():
        raise ValueError(
            f"{model} is no diffusers pipeline: it has no model_index.json; give what save_pretrained wrote"
        )
    elif not folder.exists() and (folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1):
        raise ValueError(f"{model} does not exist; give a folder or hub id of a diffusers pipeline, or demo")
    else:
        from diffusers import DiffusionPipeline
        from diffusers.utils import logging

        said = logging.get_verbosity()
        logging.set_verbosity_error()  # a failure is told in one sentence, ours
        try:
            how = {} if dtype == torch.float32 else loaded_in(dtype)
            pipe = DiffusionPipeline.from_pretrained(str(folder) if folder.exists() else model, **how)
        except OSError as error:
            reason = str(error).strip().split("\n")[0]
            raise OSError(
                f"cannot load {model!r}, neither a folder here nor to be had from the hub: {reason}"
            ) from error
        finally:
            logging.set_verbosity(said)
        pipe = pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call_arguments(pipe: Any, seeds: Sequence[int], wishes: dict[str, Any]) -> dict[str, Any]:
    """What the pipeline is called with for these seeds: class labels, prompts or a batch size, and the guidance scale.

    wishes: classes and prompt (several are used in turn, by seed) and guidance, each None where the user said nothing.

    Raises:
        ValueError: something the pipeline does not take, or the lack of something it cannot do without.
    """
    accepted = inspect.signature(pipe.__call__).parameters
    kind = type(pipe).__name__
    for wish, parameter in (("classes", "class_labels"), ("prompt", "prompt"), ("guidance", "guidance_scale")):
        if wishes[wish] is not None and parameter not in accepted:
            raise ValueError(f"{kind} takes no {parameter}: leave --{wish} away")
    call: dict[str, Any] = {} if wishes["guidance"] is None else {"guidance_scale": wishes["guidance"]}
    classes = wishes["classes"]
    if "class_labels" in accepted:
        if classes is None:
            raise ValueError(f"{kind} draws classes: say which with --classes, for example --classes 0,1,2")
        call["class_labels"] = [classes[seed % len(classes)] for seed in seeds]
    elif "prompt" in accepted:
        if wishes["prompt"] is None:
            raise ValueError(f'{kind} draws from a text: give one with --prompt "..."')
        prompts = [wishes["prompt"]] if isinstance(wishes["prompt"], str) else wishes["prompt"]
        call["prompt"] = [prompts[seed % len(prompts)] for seed in seeds]
    elif "batch_size" in accepted:
        call["batch_size"] = len(seeds)
    return call


class Batch:
    """Some seeds, their x_T and the pipeline as a denoiser for them. start: makes another x_T out of the pipeline's own."""

    def __init__(self, pipe: Any, seeds: Sequence[int], wishes: dict[str, Any], start: "Start | None" = None) -> None:
        self.seeds, self.guidance = list(seeds), wishes["guidance"]
        self.denoiser: Any = Denoiser.from_pipeline(pipe, **call_arguments(pipe, seeds, wishes))
        self.x_T = self.denoiser.initial_noise([torch.Generator().manual_seed(seed) for seed in seeds])
        if start is not None:
            self.x_T = start(self)

    def __str__(self) -> str:
        return f"seeds {self.seeds[0]} to {self.seeds[-1]}"

    @torch.no_grad()
    def run(self, **how: Any) -> tuple[torch.Tensor, Info]:
        """x0 (B, *shape) on the CPU and what the run did, by `sample` with these solver, nfe, grid and options.

        A solver may be a learned artefact or a table, by its file; grid and options are not meant for it.
        """
        told = Contender(how.pop("solver")).run(how, self.guidance) if "solver" in how else how
        x0, info = sample(self.denoiser, self.x_T, noise_seeds=self.seeds, return_info=True, **told)
        return x0.cpu(), info

    def draw(self, **how: Any) -> torch.Tensor:
        """x0 (B, *shape) on the CPU."""
        return self.run(**how)[0]

    @torch.no_grad()
    def images(self, x0: torch.Tensor) -> list[Image]:
        """x0 (B, *shape) as the pipeline's own pictures."""
        return list(self.denoiser.decode(x0.to(self.x_T.device)))


Start = Callable[[Batch], torch.Tensor]


class Source:
    """MODEL of the command line, loaded, or a pipeline that is: `batches(seeds)` are ready to be drawn.

    A pipeline given as an object stays where it is and as precise as it is, unless a device is named.
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
    ) -> None:
        self.batch_size = batch_size
        if isinstance(model, (str, Path)):
            self.pipe = load_pipeline(str(model), chosen_device(device), getattr(torch, dtype))
        else:
            self.pipe = model if device is None else model.to(chosen_device(device))
        if isinstance(model, str) and model == "demo" and classes is None:
            classes = range(10)
        self.wishes = {"classes": classes, "prompt": prompt, "guidance": guidance}

    def batches(self, seeds: Sequence[int], alone: bool = False, start: Start | None = None) -> list[Batch]:
        """The seeds in batches of at most `batch_size`; alone: of one, for solvers that choose their steps."""
        size = 1 if alone else self.batch_size
        parts = [seeds[k : k + size] for k in range(0, len(seeds), size)]
        return [Batch(self.pipe, part, self.wishes, start) for part in parts]
