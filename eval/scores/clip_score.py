"""CLIP score and PickScore: how well images agree with their prompts."""

from __future__ import annotations

from typing import Any

from fewstep.eval.extractors.vision import of_transformers
from fewstep.eval.scores.score_entry import register_score
from fewstep.eval.scores.transformers_scores import Agreement

HESSEL = "CLIPScore: A Reference-free Evaluation Metric for Image Captioning, Hessel et al., 2021, arXiv 2104.08718"
KIRSTAIN = "Pick-a-Pic: An Open Dataset of User Preferences, Kirstain et al., 2023, arXiv 2305.01569"


@register_score("clip_score", reference=HESSEL)
def clip_score(
    weights: str = "openai/clip-vit-base-patch16", scale: float = 100.0, download: bool = False
) -> Agreement:
    """scale cos(image, prompt), the mean over images; with 100 what torchmetrics and papers on text-to-image print.

    Args:
        weights: hub id or folder of a CLIPModel; papers differ in it (ViT-B/32, B/16, L/14), and so do their values.
        scale: 100; 2.5 is that of the paper, which takes the larger of the cosine and 0.
        download: fetch them from the hub where they are not here.
    """
    return _agreement(weights, scale, download)


@register_score("pick_score", reference=KIRSTAIN)
def pick_score(weights: str = "yuvalkirstain/PickScore_v1", download: bool = False) -> Agreement:
    """exp(logit scale) cos(image, prompt) of a CLIP that was tuned on preferences of people."""
    return _agreement(weights, None, download)


def _agreement(weights: str, scale: Any, download: bool) -> Agreement:
    model, processor = (of_transformers(kind, weights, download) for kind in ("CLIPModel", "AutoProcessor"))
    return Agreement(model, processor, scale)
