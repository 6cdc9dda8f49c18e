"""Vision transformers of the transformers package as extractors: DINOv2 and CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from fewstep.eval.extractors.base import Extractor
from fewstep.eval.extractors.extractor_entry import register_extractor
from fewstep.eval.extractors.resize import pillow_bicubic, resized
from fewstep.samplers.noise.random_state import random_state_kept

# Hub ids of what the metrics were published with.
DINOV2_WEIGHTS, CLIP_WEIGHTS = "facebook/dinov2-large", "openai/clip-vit-large-patch14-336"


class _Transformer(Extractor):
    """An image tower: bicubic resize with antialias (in float, not rounded to levels), mean and deviation a channel."""

    mean: Tensor
    deviation: Tensor
    levels = False  # whether resized pictures are rounded to 8 bits

    def __init__(
        self,
        tower: Any,
        size: int,
        mean: Sequence[float],
        deviation: Sequence[float],
        device: str | torch.device | None,
    ) -> None:
        super().__init__()
        self.tower, self.size, self.protocol = tower.eval().requires_grad_(False), size, f"{size} bicubic"
        self.register_buffer("mean", 255 * torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(deviation)[:, None, None], persistent=False)
        self.to(device or "cpu")

    def prepare(self, images: Tensor) -> Tensor:
        return (resized(images, self.size, pillow_bicubic, self.levels) - self.mean) / self.deviation


@register_extractor("dinov2")
class DINOv2(_Transformer):
    """DINOv2's class token after the last norm, of images squashed to 224 x 224: uint8 (B, 3, H, W) -> (B, 1024).

    Args:
        weights: hub id or folder; files on this machine are used where there are any.
        device: where it runs; None is the CPU.
        download: fetch them from the hub where there are none.
        protocol: "float", resized pictures are not rounded; "dgm-eval", they are, as Pillow resizes: FD-DINOv2 of papers.

    Raises:
        ValueError: transformers is not installed, or another protocol.
        FileNotFoundError: the weights are not here, or cannot be fetched.

    Reference:
        Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023, arXiv:2304.07193; as a metric:
        Stein et al., "Exposing flaws of generative model evaluation metrics and their unfair treatment of diffusion
        models", 2023, arXiv:2306.04675.
    """

    name, parts = "dinov2", {"main": "cls"}

    def __init__(
        self,
        weights: str | PathLike[str] = DINOV2_WEIGHTS,
        device: str | torch.device | None = None,
        download: bool = False,
        protocol: str = "float",
    ) -> None:
        if protocol not in ("float", "dgm-eval"):
            raise ValueError(
                f"`protocol` of dinov2 is float, or dgm-eval, which rounds as pictures are; got {protocol!r}"
            )
        tower = of_transformers("Dinov2Model", weights, download)
        super().__init__(tower, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), device)
        self.published = None if weights == DINOV2_WEIGHTS else False  # any others are told by their hash
        if protocol == "dgm-eval":
            self.levels, self.protocol = True, "dgm-eval"
        self.layers = {"cls": tower.config.hidden_size}

    def taps(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        return {"cls": self.tower(x).last_hidden_state[:, 0]}


@register_extractor("clip")
class CLIP(_Transformer):
    """CLIP's projected image embedding of unit length, as CMMD takes it: uint8 (B, 3, H, W) -> (B, 768).

    Args:
        weights: hub id or folder; files on this machine are used where there are any.
        device: where it runs; None is the CPU.
        download: fetch them from the hub where there are none.

    Raises:
        ValueError: transformers is not installed.
        FileNotFoundError: the weights are not here, or cannot be fetched.

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, arXiv:2103.00020; as
        a metric: Jayasumana et al., "Rethinking FID: Towards a Better Evaluation Metric for Image Generation", 2024,
        arXiv:2401.09603.
    """

    name, parts = "clip", {"main": "projected"}

    def __init__(
        self,
        weights: str | PathLike[str] = CLIP_WEIGHTS,
        device: str | torch.device | None = None,
        download: bool = False,
    ) -> None:
        tower = of_transformers("CLIPVisionModelWithProjection", weights, download)
        mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        super().__init__(tower, tower.config.image_size, mean, deviation, device)
        self.published = None if weights == CLIP_WEIGHTS else False
        self.layers = {"projected": tower.config.projection_dim}

    def taps(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        embedding = self.tower(x).image_embeds
        return {"projected": embedding / embedding.norm(dim=1, keepdim=True)}


def _published(weights: str | PathLike[str]) -> str:
    """Where a model of the hub is published, for somebody who has to bring it here."""
    known = weights in (DINOV2_WEIGHTS, CLIP_WEIGHTS)
    return f"It is published at https://huggingface.co/{weights} (config.json, model.safetensors). " if known else ""


def of_transformers(kind: str, weights: str | PathLike[str], download: bool) -> Any:
    """A model in float32, or a processor: from this machine where it is here, else from the hub if that is allowed.

    Raises:
        ValueError: transformers is not installed. FileNotFoundError: it is not here, or cannot be fetched.
    """
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            "DINOv2, CLIP and their like need the package transformers: pip install transformers."
        ) from error
    cls = getattr(transformers, kind)
    for local in (True, False) if download else (True,):
        try:
            with random_state_kept():
                found = cls.from_pretrained(str(weights), local_files_only=local)
                return found.float() if isinstance(found, torch.nn.Module) else found
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
    raise FileNotFoundError(
        f"the model {str(weights)!r} is {'neither' if download else 'not'} on this machine"
        f"{' nor could it be fetched' if download else ''} ({reason}). {_published(weights)}Give a folder "
        f"that holds its config.json and weights (--weights DIR){'' if download else ', or allow the download (--download)'}."
    )
