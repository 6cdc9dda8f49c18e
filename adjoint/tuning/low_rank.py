"""Weights that move by a product of two thin matrices: W + B A, A (r, in) and B (out, r), as adapters (LoRA) have it.

Of a convolution A is one of r channels and B one of size 1. B begins at zero, so that nothing changes before the first step.

Reference: LoRA: Low-Rank Adaptation of Large Language Models, Hu et al., 2021, arXiv:2106.09685.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

KINDS = (nn.Linear, nn.Conv2d)
Layer = nn.Linear | nn.Conv2d
A, B = "lora_A.weight", "lora_B.weight"  # as adapter files name them


class LowRank(nn.Module):
    """W -> W + B A for a weight (out, in, ...)."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        shape = weight.shape
        a = torch.empty(rank, *shape[1:])
        a.uniform_(-1, 1, generator=generator).div_(math.sqrt(a[0].numel()))
        self.a = nn.Parameter(a.to(weight.device))
        self.b = nn.Parameter(torch.zeros(shape[0], rank, *([1] * (weight.ndim - 2)), device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + product(self.a, self.b).to(weight)


def product(a: Tensor, b: Tensor) -> Tensor:
    """B A in the shape of the weight."""
    return (b.flatten(1) @ a.flatten(1)).view(b.shape[0], *a.shape[1:])


def wanted(network: nn.Module, targets: Sequence[str] | None, rank: int) -> dict[str, Layer]:
    """Linear layers and convolutions that get one, by name: all that are larger than the rank, or those whose name has a
    target's word in it. ValueError where there is none."""
    found: dict[str, Layer] = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, KINDS) and getattr(layer, "groups", 1) == 1 and min(layer.weight.shape[:2]) > rank
        if targets is None or any(word in name for word in targets)
    }
    if not found:
        said = "" if targets is None else f" of {', '.join(targets)}"
        raise ValueError(
            f"no linear layer or convolution{said} is larger than rank {rank}: take a smaller `rank`, other `targets`, or "
            "weights='all'"
        )
    return found


def attached(network: nn.Module, targets: Sequence[str] | None, rank: int, seed: int) -> dict[str, LowRank]:
    """Low-rank parts at the weights of a network, by the name of their layer; see `detached`."""
    generator = torch.Generator().manual_seed(seed)
    parts = {}
    for name, layer in wanted(network, targets, rank).items():
        if parametrize.is_parametrized(layer, "weight"):
            raise ValueError(
                f"the weight of {name} is parametrised already: take weights='trainable', or remove that first"
            )
        parts[name] = LowRank(layer.weight, rank, generator)
        parametrize.register_parametrization(layer, "weight", parts[name])
    return parts


def detached(network: nn.Module, names: Sequence[str]) -> None:
    """The network without its low-rank parts, its weights as they were, to the bit."""
    for name in names:
        layer = network.get_submodule(name)
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


@torch.no_grad()
def merged(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Add B A to the weights of a network; tensors: by "LAYER.lora_A.weight" and "LAYER.lora_B.weight".

    Raises:
        ValueError: a layer that there is not, or of another shape: the adapter belongs to another network.
    """
    names = [key.removesuffix("." + A) for key in tensors if key.endswith(A)]
    layers = dict(network.named_modules())
    for name in names:
        weight = getattr(layers.get(name), "weight", None)
        a, b = tensors[f"{name}.{A}"], tensors[f"{name}.{B}"]
        if not isinstance(weight, Tensor) or weight.shape != (b.shape[0], *a.shape[1:]):
            raise ValueError(
                f"these weights belong to another network: it has no layer {name} of shape {tuple(b.shape)}"
            )
    for name in names:
        weight = layers[name].weight
        assert isinstance(weight, Tensor)
        weight.add_(product(tensors[f"{name}.{A}"], tensors[f"{name}.{B}"]).to(weight))
