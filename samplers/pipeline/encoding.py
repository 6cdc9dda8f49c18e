"""A pipeline's words, encoded once: each prompt by itself, for every batch, restart and stage that needs it.

`encode_prompt` of a pipeline is split into its samples, and what it returned for one is kept and put together again. So a
prompt's embedding does not depend on its batch either. What cannot be split is encoded as the pipeline does it.
"""

from __future__ import annotations

import hashlib
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

COUNTS = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")
PLAIN = (str, int, float, type(None), torch.device, torch.dtype)
Given = dict[str, Any]


class Unlike(Exception):
    """Results for single samples that are no parts of one for several, as far as can be told."""


class Encoded:
    """What the text encoders of one pipeline have answered so far."""

    def __init__(self) -> None:
        self._kept: dict[Any, Any] = {}
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a copy encodes for itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def of(self, pipe: Any) -> Callable[..., Any] | None:
        """`pipe.encode_prompt` with a memory; None where it has no such method."""
        method = getattr(type(pipe), "encode_prompt", None)
        if method is None:
            return None
        signature = inspect.signature(method)

        def encode_prompt(*args: Any, **named: Any) -> Any:
            own = signature.bind(pipe, *args, **named)
            own.apply_defaults()
            given: Given = dict(list(own.arguments.items())[1:])
            rest = given.pop("kwargs", {}) if "kwargs" in signature.parameters else {}
            count = _samples(given)
            if rest or not count or torch.is_grad_enabled() or not all(map(_plain, given.values())):
                return method(pipe, *args, **named)
            with self._lock:
                return self._encoded(pipe, method, given, count)

        return encode_prompt

    def _encoded(self, pipe: Any, method: Callable[..., Any], given: Given, count: int) -> Any:
        state = _state(pipe)
        rows = next((int(given[name]) for name in COUNTS if name in given), 1)

        def kept(own: Given) -> Any:
            key = (state, *((name, _key(value)) for name, value in own.items()))
            if key not in self._kept:
                self._kept[key] = method(pipe, **own)
            return self._kept[key]

        try:
            singles = [kept(own) for own in split(given, count)]
            return singles[0] if count == 1 else together(singles, rows)
        except Unlike:
            return kept(given)


def _samples(given: Mapping[str, Any]) -> int:
    """How many samples the words or embeddings are of; 0 where it cannot be told."""
    prompt = given.get("prompt")
    if isinstance(prompt, str):
        return 1
    embeddings = [v for name, v in given.items() if "embeds" in name and isinstance(v, Tensor | list)]
    return len(prompt) if isinstance(prompt, list) else len(embeddings[0]) if embeddings else 0


def _plain(value: Any) -> bool:
    return isinstance(value, (*PLAIN, Tensor)) or (isinstance(value, list) and all(map(_plain, value)))


def split(given: Given, count: int) -> list[Given]:
    """The arguments of every sample by itself."""
    if count == 1:
        return [given]

    def one(name: str, value: Any, i: int) -> Any:
        rows = isinstance(value, list) or (isinstance(value, Tensor) and ("embeds" in name or "mask" in name))
        return value[i : i + 1] if rows and len(value) == count else value

    return [{name: one(name, value, i) for name, value in given.items()} for i in range(count)]


def together(parts: Sequence[Any], rows: int) -> Any:
    """Results of single samples, `rows` rows each, as that of all. Unlike where they are no parts of one."""
    first = parts[0]
    if isinstance(first, tuple):
        if any(len(part) != len(first) for part in parts):
            raise Unlike
        columns = list(zip(*parts, strict=True))
        padded = any(_is_mask(column[0]) for column in columns)
        return tuple(_column(column, rows, padded) for column in columns)
    return _column(parts, rows, False)


def _column(parts: Sequence[Any], rows: int, padded: bool) -> Any:
    first = parts[0]
    if isinstance(first, list) and all(isinstance(part, list) and len(part) == rows for part in parts):
        return [one for part in parts for one in part]
    if isinstance(first, Tensor) and all(isinstance(part, Tensor) and part.ndim == first.ndim for part in parts):
        if first.ndim and all(len(part) == rows for part in parts):
            return torch.cat(list(_padded(parts) if padded else _same_shape(parts)))
        if all(part.shape == first.shape and torch.equal(part, first) for part in parts):
            return first  # of all samples alike, as the places of words are
        raise Unlike
    if isinstance(first, PLAIN) and all(part == first for part in parts):
        return first
    raise Unlike


def _same_shape(parts: Sequence[Tensor]) -> Sequence[Tensor]:
    if any(part.shape != parts[0].shape for part in parts):
        raise Unlike
    return parts


def _padded(parts: Sequence[Tensor]) -> Sequence[Tensor]:
    """Of one length, with zeros that a mask beside them leaves out."""
    if parts[0].ndim < 2 or len({part.shape[2:] for part in parts}) > 1:
        return _same_shape(parts)
    longest = max(part.shape[1] for part in parts)
    return [torch.cat([p, p.new_zeros(len(p), longest - p.shape[1], *p.shape[2:])], 1) for p in parts]


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and not value.is_floating_point()


def _state(pipe: Any) -> tuple[Any, ...]:
    """What tells that the encoders are not what they were: trained further, other adapters or scales."""
    found: list[Any] = [torch.is_inference_mode_enabled()]
    for name, part in vars(pipe).items():
        if "text" in name and isinstance(part, Module):
            versions = [0 if t.is_inference() else t._version for t in part.parameters()]
            scales = sorted(
                repr(layer.scaling) for layer in part.modules() if isinstance(getattr(layer, "scaling", 0), dict)
            )
            found.append((id(part), len(versions), sum(versions), tuple(scales)))
    return tuple(found)


def _key(value: Any) -> Any:
    """A value by its content."""
    if isinstance(value, list):
        return tuple(_key(part) for part in value)
    if isinstance(value, Tensor):
        data = value.detach().to("cpu").reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
        return tuple(value.shape), str(value.dtype), str(value.device), hashlib.sha256(data).hexdigest()
    return value
