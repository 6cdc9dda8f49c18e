"""Arguments of a pipeline's own call for numbered samples: a list is taken in turn, by seed; everything else is for all.

    Calls(pipe, {"prompt": ["a cat", "a dog"], "negative_prompt": "blurred", "guidance_scale": 5.0}).together([0, 1, 2])

Sample i has entry i mod n of every list of n, whatever batch it is drawn in. What a pipeline takes a sample (words, embeddings,
masks, images) is put together for a batch; of what it takes a call (sizes, scales) a batch has one value, so that only seeds
whose values are equal go together.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from fewstep.checks import unknown
from fewstep.samplers.pipeline.encoding import COUNTS

SHORT = {"classes": "class_labels", "prompt": "prompt", "guidance": "guidance_scale"}  # forms of arguments of a call
SEEDS = "it is made of the seeds"
TAKEN = {
    "generator": SEEDS, "latents": SEEDS, "batch_size": "it is that of the seeds",
    **dict.fromkeys(COUNTS, "a seed has one sample"),
}  # fmt: skip
OF_A_SAMPLE = ("embeds", "embedding", "mask", "pooled")  # in names of tensors that have a row for every sample
SEEN = ("image", "mask", "latent", "video")  # in names of what is looked at
PICTURES = (Image, np.ndarray)


class Calls:
    """What a pipeline is called with for these and those seeds.

    Raises:
        ValueError: arguments that the pipeline does not take, or that the seeds decide; lists of different lengths.
    """

    def __init__(self, pipe: Any, call: Mapping[str, Any]) -> None:
        self.accepted = inspect.signature(type(pipe).__call__).parameters
        self.kind, self.given = type(pipe).__name__, dict(call)
        for name in self.given:
            if name in TAKEN:
                raise ValueError(f"`{name}` is no argument for numbered samples: {TAKEN[name]}; leave it away")
            if name not in self.accepted:
                raise unknown(f"argument of {self.kind}", name, [n for n in self.accepted if n not in ("self", *TAKEN)])
        self.lists = {name: value for name, value in self.given.items() if self._by_seed(name, value)}
        check_lengths({name: len(value) for name, value in self.lists.items()})

    def _by_seed(self, name: str, value: Any) -> bool:
        """Whether a value is a list with an entry a seed; a size, (1024, 1024), is one where pipelines take pairs."""
        if not isinstance(value, list | tuple):
            return isinstance(value, range)
        pair = "tuple" in str(self.accepted[name].annotation).lower() or isinstance(self.accepted[name].default, tuple)
        return not (pair and all(isinstance(part, int | float) for part in value))

    @property
    def period(self) -> int:
        """Seeds that differ by it have the same arguments."""
        return max(map(len, self.lists.values()), default=1)

    def of(self, seed: int) -> dict[str, Any]:
        """The arguments of one sample, as they were given."""
        return {name: value[seed % len(value)] if name in self.lists else value for name, value in self.given.items()}

    @property
    def looks(self) -> bool:
        """Whether pictures are among the arguments: some pipelines take a list of them for one sample."""
        return any(
            any(part in name for part in SEEN) and "embeds" not in name and value is not None
            for name, value in self.given.items()
            if "attention" not in name
        )

    def kind_of(self, seed: int) -> tuple[Any, ...]:
        """What two seeds must have in common to go together: values of the whole call, and shapes of the rest."""
        own = self.of(seed)
        return tuple((name, _alike(name, own[name])) for name in self.lists)

    def alike(self, seeds: Sequence[int], size: int, *, apart: bool = True) -> list[list[int]]:
        """The seeds in batches of at most `size` that can be drawn together; apart: seeds keep their order, one after another.

        Without it, seeds that lie apart go together too.
        """
        groups: dict[Any, list[int]] = {}
        run, last = 0, None
        for seed in seeds:
            kind = self.kind_of(seed)
            run += apart and last is not None and kind != last
            last = kind
            groups.setdefault((run, kind), []).append(seed)
        return [group[k : k + size] for group in groups.values() for k in range(0, len(group), size)]

    def together(self, seeds: Sequence[int]) -> dict[str, Any]:
        """The call for a batch. ValueError for seeds that cannot be drawn in one."""
        if len({self.kind_of(seed) for seed in seeds}) > 1:
            raise ValueError(
                f"seeds {list(seeds)} cannot be drawn together: their {', '.join(self.lists)} differ in kind"
            )
        own = [self.of(seed) for seed in seeds]
        return {name: self._joined(name, [one[name] for one in own]) for name in self.given}

    def _joined(self, name: str, values: list[Any]) -> Any:
        """One value for a batch, out of one a sample."""
        if name in self.lists or self._a_row_each(name, values[0]):
            return _put_together(name, values, "list[torch" in str(self.accepted[name].annotation).lower())
        return values[0]

    def _a_row_each(self, name: str, value: Any) -> bool:
        """Whether a value for all has to be said again for every sample: words, labels and embeddings."""
        if isinstance(value, Tensor):
            return any(part in name for part in (*OF_A_SAMPLE, *SEEN))
        if isinstance(value, PICTURES):
            return True  # each is encoded with the seed's own generator
        return name == "class_labels" or (isinstance(value, str) and _is_text(name))


def check_lengths(lengths: Mapping[str, int]) -> None:
    """ValueError for lists taken by seed whose lengths differ, and for empty ones; one entry is for all."""
    longest = max(lengths, key=lambda name: lengths[name], default="")
    for name, length in lengths.items():
        if length == 0:
            raise ValueError(f"the list of `{name}` is empty: give an entry a seed, or one for all")
        if length not in (1, lengths[longest]):
            raise ValueError(
                f"lists are taken in turn by seed and have one length, or one entry: `{name}` has {length}, `{longest}` has "
                f"{lengths[longest]}"
            )


def _is_text(name: str) -> bool:
    return "prompt" in name and not any(part in name for part in OF_A_SAMPLE)


def _alike(name: str, value: Any) -> Any:
    """What must be equal in a batch: a value of the whole call itself, of a sample's own value its kind and shape."""
    if isinstance(value, Tensor):
        return tuple(value.shape), str(value.dtype)
    if isinstance(value, Image):
        return value.size, value.mode
    if isinstance(value, np.ndarray):
        return value.shape
    if isinstance(value, list):
        return tuple(_alike(name, part) for part in value)
    if isinstance(value, str) and _is_text(name):
        return "text"
    if name == "class_labels":
        return "label"
    return value if isinstance(value, int | float | str | tuple | None) else id(value)


def _put_together(name: str, values: list[Any], keeps_lists: bool) -> Any:
    """Values of a batch that are alike, as pipelines want them: words and images in lists, tensors along their first axis."""
    first = values[0]
    if isinstance(first, Tensor):
        if keeps_lists and "embeds" in name and first.ndim == 2:
            return values  # pipelines whose embeddings have lengths of their own take a list of them
        rows = [value[None] if "image" in name and value.ndim == 3 else value for value in values]
        if "image_embeds" in name and len(first) == 2:  # refused and wanted halves of guidance
            return torch.cat([half for k in range(2) for half in (row[k : k + 1] for row in rows)])
        if len(rows[0]) != 1:
            raise ValueError(
                f"`{name}` is taken by seed: each entry must be of one sample, (1, ...); got {tuple(first.shape)}"
            )
        return torch.cat(rows) if len(rows) > 1 else rows[0]
    if isinstance(first, PICTURES):
        pictures = list(values)
        return [pictures] if "ip_adapter" in name else pictures  # a list for every adapter
    if isinstance(first, list):  # one for every adapter or control network
        if "ip_adapter" in name and isinstance(first[0], PICTURES):
            return [list(column) for column in zip(*values, strict=True)]
        return [_put_together(name, list(column), keeps_lists) for column in zip(*values, strict=True)]
    return list(values) if name == "class_labels" or (isinstance(first, str) and _is_text(name)) else first


def described(value: Any) -> Any:
    """A value of a call as JSON that tells it from others: arrays and pictures by their shape and a hash of their content."""
    if isinstance(value, Mapping):
        return {str(name): described(part) for name, part in value.items()}
    if isinstance(value, list | tuple | range):
        return [described(part) for part in value]
    if isinstance(value, Tensor):
        return _hashed(value.detach().to("cpu", torch.float64).numpy())
    if isinstance(value, PICTURES):
        return _hashed(np.asarray(value))
    return value if isinstance(value, int | float | str | None) else repr(value)


def _hashed(array: Any) -> dict[str, Any]:
    return {
        "shape": list(array.shape),
        "sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16],
    }


def call_arguments(pipe: Any, wishes: Mapping[str, Any]) -> dict[str, Any]:
    """What the pipeline is called with, by seed, out of what the user said.

    wishes: classes and prompt (several are used in turn, by seed) and guidance, each None where the user said nothing, and
    call, any arguments of the pipeline's own call, of which those are short forms.

    Raises:
        ValueError: something the pipeline does not take, the lack of something it cannot do without, or both forms of one.
    """
    accepted = inspect.signature(pipe.__call__).parameters
    kind = type(pipe).__name__
    call: dict[str, Any] = dict(wishes.get("call") or {})
    for wish, parameter in SHORT.items():
        if wishes[wish] is None:
            continue
        if parameter not in accepted:
            raise ValueError(f"{kind} takes no {parameter}: leave --{wish} away")
        if parameter in call:
            raise ValueError(f"{parameter} is said twice, as `{wish}` and in `call`: leave one of them away")
        if wish == "classes":
            call[parameter] = [int(label) for label in wishes[wish]]
        else:
            call[parameter] = wishes[wish] if isinstance(wishes[wish], str | float | int) else list(wishes[wish])
    if "class_labels" in accepted and "class_labels" not in call:
        raise ValueError(f"{kind} draws classes: say which with --classes, for example --classes 0,1,2")
    if "prompt" in accepted and not words_in(call):
        raise ValueError(f'{kind} draws from a text: give one with --prompt "..."')
    return call


def words_in(call: Mapping[str, Any]) -> bool:
    """Whether a call says what to draw: in words, or by their embeddings."""
    return any(name.startswith(("prompt", "image_embeds")) and value is not None for name, value in call.items())


def gives_tensors(pipe: Any) -> bool:
    """Whether output_type="pt" gives the images in [0, 1] of which the pipeline's pictures are made: some give other values.

    Known of this library's pipelines, and of those whose image processor is diffusers' common one.
    """
    process = getattr(type(getattr(pipe, "image_processor", None)), "postprocess", None)
    common = getattr(process, "__qualname__", "") == "VaeImageProcessor.postprocess"
    takes = "output_type" in inspect.signature(type(pipe).__call__).parameters
    return takes and (common or bool(getattr(pipe, "gives_tensors", False)))
