"""What tells one model from another: a hash of a few of its weights, and what it answers.

Weights alone do not: the scale of an adapter, which adapters are set, an embedded guidance or any other attribute of Python
changes what a network answers and no tensor of its. Weights are hashed to the last bit. Answers are compared: another machine,
or another number of threads, adds in another order, and a hash of rounded answers differs wherever one lies on an edge.

    y_b = sum of s_i a_i over i = b modulo 256,   s_i = +-1 drawn once,   E |y|^2 = |a|^2

keeps an answer a as 256 numbers y, the distance of two answers to about a tenth of itself.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from fewstep.samplers.validity.domain import few_weights, networks_of

# Of an answer's size. Orders of summation differ by 1e-6 of it in float32; an adapter that makes 1 % of an answer changes it by
# 3e-4 where its scale changes by 3 %; the reference's own error is larger than this. What differs by more than this between
# machines (half precision) is run again rather than confused.
APART = 1e-4
SKETCH = 256
ANSWERS = "answers.json"  # in a folder of stages: what their network answers
Answers = tuple[tuple[float, ...], ...]


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


@torch.no_grad()
def behaviour(ask: Callable[[], Sequence[Tensor]]) -> Answers | None:
    """What a model answers on fixed inputs, in few numbers; None, with a warning, where asking again gives other answers.

    Nothing that is kept of such a model could be known to be its own.
    """
    answers, again = ask(), ask()
    if all(_bytes(first) == _bytes(second) for first, second in zip(answers, again, strict=True)):
        return tuple(_sketch(answer) for answer in answers)
    warnings.warn(
        "the network answers otherwise when it is asked the same again (dropout, noise or a cache of its own), so that "
        "reference runs on disk could not be told from another's: none is kept or read. Put it into .eval()",
        stacklevel=2,
    )
    return None


def alike(one: Answers, other: Answers) -> bool:
    """Whether two behaviours are those of one network: |y - y'| <= APART |y| for every input."""
    if [len(y) for y in one] != [len(y) for y in other]:
        return False
    pairs = [(np.array(y), np.array(z)) for y, z in zip(one, other, strict=True)]
    # Written so that NaN is unlike everything, and what is equal to the last bit alike, all zeros too.
    return all(np.array_equal(y, z) or bool(np.linalg.norm(y - z) <= APART * np.linalg.norm(y)) for y, z in pairs)


def steady(value: Any) -> Any:
    """Floats, and arrays of them in bytes, to nine digits: machines differ in the last bits of an exponential."""
    if isinstance(value, bytes) and len(value) % 8 == 0:
        return steady(tuple(np.frombuffer(value).tolist()))
    if isinstance(value, tuple):
        return tuple(steady(part) for part in value)
    return f"{value:.9e}" if isinstance(value, float) else value


def named(answers: Answers) -> str:
    """A short name of a behaviour, equal where all its bits are."""
    return hashlib.sha256(json.dumps(answers).encode()).hexdigest()[:8]


def _sketch(answer: Tensor) -> tuple[float, ...]:
    a = answer.detach().to("cpu", torch.float64).flatten().numpy()
    signs = (
        np.random.RandomState(0).randint(0, 2, a.size) * 2 - 1
    )  # of all its streams the one that numpy never changes
    if a.size <= SKETCH:
        return tuple((signs * a).tolist())
    return tuple(np.bincount(np.arange(a.size) % SKETCH, signs * a, SKETCH).tolist())


def _bytes(tensor: Tensor) -> bytes:
    return tensor.to("cpu", torch.float64).numpy().tobytes()
