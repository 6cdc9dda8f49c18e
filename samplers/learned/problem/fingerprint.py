"""What tells one model from another: a hash of a few of its weights, and of what it answers.

Weights alone do not: the scale of an adapter, which adapters are set, an embedded guidance or any other attribute of Python
changes what a network answers and no tensor of its.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from fewstep.samplers.validity.domain import few_weights, networks_of


def hooked(pipe: Any) -> bool:
    """Whether a network of the pipeline has hooks of diffusers or accelerate: caches over steps, weights that come and go."""
    parts = (part for network in networks_of(pipe).values() for part in network.modules())
    return any(hasattr(part, hook) for part in parts for hook in ("_diffusers_hook", "_hf_hook"))


def fingerprint(about: object, modules: Iterable[Module], answers: Iterable[Tensor]) -> str:
    """Hash of what is said about a model, of a few weights of every tensor, and of what it returned on fixed inputs."""
    found = hashlib.sha256(repr(about).encode())
    for few in few_weights(modules):
        found.update(few)
    for answer in answers:
        found.update(_bytes(answer))
    return found.hexdigest()[:16]


def behaviour(answers: Iterable[Tensor], again: Iterable[Tensor]) -> str | None:
    """Hash of what a model answered on fixed inputs, to the last bit; None where asking again gave other answers."""
    found = hashlib.sha256()
    for first, second in zip(answers, again, strict=True):
        one, other = _bytes(first), _bytes(second)
        if one != other:
            return None
        found.update(one)
    return found.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.to("cpu", torch.float64).numpy().tobytes()
