"""Scores by models of transformers: how well image and prompt agree (CLIP and what was tuned from it), or a head's number.

    two towers    scale cos(image, text)                  CLIP score: scale 100; preference models: their own exp(logit scale)
    a classifier  its one logit, or the logit of a label  aesthetic predictors

Images go through the model's own processor as whole pictures, so that the number is the one that transformers gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def of_model(name: str, *given: Any) -> tuple[Callable[..., Tensor], bool]:
    """A score by (model, processor), and whether it looks at prompts. ValueError: not these two."""
    if len(given) != 2 or not isinstance(given[0], torch.nn.Module) or not callable(given[1]):
        raise ValueError(f"score {name!r} is a pair, and not (model, processor) of transformers: give these two")
    model, processor = given
    if hasattr(model, "get_text_features"):
        return Agreement(model, processor), True
    return Head(model, processor), False


class Agreement(torch.nn.Module):
    """scale cos(image, text) of a model with two towers (CLIP, SigLIP ...).

    Args:
        model, processor: of transformers.
        scale: before the cosine; None: the model's own, exp(logit_scale).
    """

    def __init__(self, model: Any, processor: Any, scale: float | None = None) -> None:
        super().__init__()
        self.model, self.processor, self.scale = model.eval().requires_grad_(False), processor, scale

    def forward(self, images: Any, prompts: Sequence[str]) -> Tensor:
        place = next(self.model.parameters()).device
        inputs = self.processor(
            text=list(prompts),
            images=[image.cpu() for image in images],
            return_tensors="pt",
            padding=True,
            truncation=True,
        )
        with torch.inference_mode():
            found = self.model(**{name: value.to(place) for name, value in inputs.items()})
            image, text = (
                x.float() / x.float().norm(dim=-1, keepdim=True) for x in (found.image_embeds, found.text_embeds)
            )
            scale = self.model.logit_scale.float().exp() if self.scale is None else self.scale
            return scale * (image * text).sum(-1)


class Head(torch.nn.Module):
    """The logit of an image classifier: its only one, or that of a label."""

    def __init__(self, model: Any, processor: Any, label: str | int | None = None) -> None:
        super().__init__()
        self.model, self.processor = model.eval().requires_grad_(False), processor
        names = getattr(model.config, "id2label", {0: 0})
        if label is None and len(names) != 1:
            raise ValueError(
                f"{type(model).__name__} tells {len(names)} labels apart and gives no single number: say which label's logit "
                "is the score, or give a function"
            )
        place = {str(word): int(i) for i, word in names.items()}
        self.index = 0 if label is None else place[label] if isinstance(label, str) else int(label)

    def forward(self, images: Any) -> Tensor:
        place = next(self.model.parameters()).device
        inputs = self.processor(images=[image.cpu() for image in images], return_tensors="pt")
        with torch.inference_mode():
            logits: Tensor = self.model(**{name: value.to(place) for name, value in inputs.items()}).logits
        return logits[:, self.index].float()
