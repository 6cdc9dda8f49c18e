"""The small digit classifier that judges samples of the demo model and, later, guides them."""

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fewstep.demo.folder import proved
from fewstep.samplers.noise.random_state import random_state_kept


class DigitClassifier(nn.Module):
    """A five-layer network for digits: (B, 1, 28, 28) in [-1, 1] -> (B, 10) logits; about 80,000 parameters.

    It is smooth (SiLU, average pooling), so that gradients with respect to the image are useful as guidance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.SiLU(), nn.AvgPool2d(2),
            nn.Conv2d(32, 48, 3, padding=1), nn.GroupNorm(4, 48), nn.SiLU(), nn.AvgPool2d(2),
            nn.Conv2d(48, 64, 3, padding=1), nn.GroupNorm(4, 64), nn.SiLU(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(64 * 3 * 3, 64), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, 10)

    def features(self, x: Tensor) -> Tensor:
        """Features before the last layer, for Frechet distances: (B, 1, 28, 28) in [-1, 1] -> (B, 64)."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the ten classes: (B, 1, 28, 28) in [-1, 1] -> (B, 10)."""
        return self.head(self.features(x))


def load_demo_classifier(device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> DigitClassifier:
    """The embedded digit classifier, in eval mode with frozen weights: (B, 1, 28, 28) in [-1, 1] -> (B, 10) logits.

    Args:
        device: where the network goes; None is the CPU.
        dtype: what the network computes in; None is float32 (the weights are stored in float16).
    """
    with random_state_kept():  # it is made with random weights before it has its own
        classifier = DigitClassifier()
    classifier.load_state_dict(load_file(proved("classifier.safetensors") / "classifier.safetensors"))
    return classifier.to(device=device, dtype=dtype or torch.float32).eval().requires_grad_(False)
