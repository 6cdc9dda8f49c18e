"""The weights of a model that are trained, all or low-rank parts of them, and their values at other times.

A model has its own values again when the block ends, whatever happened in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from fewstep.adjoint.tuning.low_rank import A, B, attached, detached
from fewstep.checks import unknown
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.validity.domain import networks_of

KINDS = ("all", "lora", "trainable")
NETWORKS = ("unet", "transformer", "transformer_2", "unet_2", "prior", "denoiser")  # of a pipeline, that are stepped
Values = list[Tensor]


class Trained:
    """What is trained of a model.

    Attributes:
        networks: by name. kind: of KINDS. names, params: of what is trained, in one order; a name begins with its network's.
        original: their values before.
    """

    def __init__(
        self, networks: Mapping[str, Module], kind: str, rank: int, targets: Sequence[str] | None, seed: int
    ) -> None:
        self.networks, self.kind, self.rank = dict(networks), kind, rank
        self._before = {p: p.requires_grad for network in networks.values() for p in network.parameters()}
        self._layers: dict[str, list[str]] = {}
        found: dict[str, Tensor] = {}
        for name, network in networks.items():
            if kind == "lora":
                parts = attached(network, targets, rank, seed)
                self._layers[name] = list(parts)
                for layer, part in parts.items():
                    found[f"{name}.{layer}.{A}"], found[f"{name}.{layer}.{B}"] = part.a, part.b
            else:
                own = network.named_parameters()
                found |= {f"{name}.{key}": p for key, p in own if kind == "all" or p.requires_grad}
        if not found:
            raise ValueError(
                "no weight of this model requires a gradient: weights='all' or 'lora' chooses by itself, 'trainable' takes "
                "those that do, of an adapter that was added, say"
            )
        if half := next((name for name, p in found.items() if p.dtype in (torch.float16, torch.bfloat16)), None):
            raise ValueError(
                f"{half} is in {str(found[half].dtype).removeprefix('torch.')}, which steps of this size do not move: load the "
                "model in float32, or take weights='lora', whose parts are"
            )
        self.names, self.params = list(found), list(found.values())
        self.original = self.values()

    def begin(self) -> None:
        """What is trained requires gradients, nothing else of these networks does."""
        for p in self._before:
            p.requires_grad_(False)
        for own in self.params:
            own.requires_grad_(True)
            own.grad = None

    def end(self) -> None:
        """The model as it was."""
        self.put(self.original)
        for name, layers in self._layers.items():
            detached(self.networks[name], layers)
        for p, required in self._before.items():
            p.requires_grad_(required)
            p.grad = None

    def values(self) -> Values:
        """A copy of the present values."""
        return [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def put(self, values: Values) -> None:
        """Copy values into the weights."""
        for p, value in zip(self.params, values, strict=True):
            p.copy_(value)

    @contextmanager
    def being(self, values: Values) -> Iterator[None]:
        """The weights are these until the block ends. They are exchanged: a graph that holds them finds its own again."""
        own = [p.data for p in self.params]
        try:
            for p, value in zip(self.params, values, strict=True):
                p.data = value
            yield
        finally:
            for p, value in zip(self.params, own, strict=True):
                p.data = value

    def named(self, values: Values) -> dict[str, Tensor]:
        """Values by name, on the CPU."""
        return {name: v.detach().cpu().contiguous() for name, v in zip(self.names, values, strict=True)}


def networks_to_train(model: Any, networks: Any = None) -> dict[str, Module]:
    """The networks whose weights decide what a model answers, by name.

    networks: a Module or {name: Module} that a Denoiser's function calls; names of a pipeline's components.

    Raises:
        ValueError: a function of which nobody knows what weights it has; components that there are not.
    """
    if isinstance(networks, Module):
        return {"network": networks}
    if isinstance(networks, Mapping) and networks and all(isinstance(v, Module) for v in networks.values()):
        return {str(name): network for name, network in networks.items()}
    if isinstance(model, Denoiser):
        if isinstance(model.fn, Module) and networks is None:
            return {"network": model.fn}
        raise ValueError(
            "the Denoiser's `fn` is a function, of which nobody knows its weights: name its network, tune(..., networks=net)"
        )
    there = networks_of(model)
    names = [networks] if isinstance(networks, str) else list(networks or [n for n in NETWORKS if n in there])
    if not names or (missing := [name for name in names if name not in there]):
        if names:
            raise unknown("network of this pipeline", missing[0], there)
        raise ValueError(
            "which of the pipeline's networks is stepped is not known: name it, tune(..., networks='NAME'), of "
            + ", ".join(there)
        )
    return {name: there[name] for name in names}


class Average:
    """Exponential moving average of values: m <- d m + (1 - d) w, d = min(decay, (1 + k) / (10 + k)) at step k."""

    def __init__(self, values: Values, decay: float) -> None:
        self.values, self.decay, self.steps = [v.clone() for v in values], decay, 0

    @torch.no_grad()
    def add(self, params: Sequence[Tensor]) -> None:
        """One step."""
        d = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for mean, p in zip(self.values, params, strict=True):
            mean.lerp_(p.detach().to(mean), 1 - d)
