"""An extractor that gives scores beside features: one pass over the images serves both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.eval.extractors.base import Extractor
from fewstep.eval.extractors.precision import exact_arithmetic
from fewstep.eval.images.image_sets import digest
from fewstep.eval.metrics.registry import METRICS
from fewstep.eval.scores.score_entry import Scorer

Words = Sequence[str] | dict[int, str]


class Scoring(Extractor):
    """What `base` gives, and of every score a column; without a base the scores alone.

    Args:
        base: of the features, or None.
        scorers: by name.
        words: the prompts, by the numbers of the images.
        others: real images of the same numbers, for scores of pairs: others.image(number).
    """

    protocol = "as the model's own"

    def __init__(self, base: Extractor | None, scorers: Mapping[str, Scorer], words: Words, others: Any = None) -> None:
        super().__init__()
        self.others = others
        self.base, self.scorers, self.words = base, torch.nn.ModuleDict(scorers), words
        facts: Any = self if base is None else base
        self.name = "+".join(scorers) if base is None else base.name
        self.protocol, self.precision, self.published = facts.protocol, facts.precision, facts.published
        known: Mapping[str, str] = {} if base is None else base.parts
        self.layers = {**({} if base is None else base.layers), **dict.fromkeys(scorers, 1)}
        self.parts = {**known, **{name: name for name in scorers}}

    @property
    def hash(self) -> str:  # type: ignore[override]  # of the base, by which features are comparable
        return "" if self.base is None else self.base.hash

    @property
    def more(self) -> str:
        """What the scores are made of, beside the hash of the base."""
        words = list(self.words) if not isinstance(self.words, dict) else sorted(self.words.items())
        weights = [w.flatten()[:64].double().cpu().numpy().tobytes() for w in self.scorers.state_dict().values()]
        return digest(sorted(self.scorers), words, *weights)

    def prepare(self, images: Tensor) -> Tensor:
        assert self.base is not None
        return self.base.prepare(images)

    def taps(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        assert self.base is not None
        return self.base.taps(x, layers)

    def numbered(self, images: Any, layers: Sequence[str], numbers: np.ndarray) -> dict[str, Tensor]:
        """Features, and scores of images with the prompts of their numbers."""
        asked = [layer for layer in layers if layer in self.scorers]
        rest = [layer for layer in layers if layer not in self.scorers]
        found: dict[str, Tensor] = {}
        if rest and self.base is not None:
            found = self.base(images, rest)
        same = len({image.shape for image in images}) == 1
        shown = torch.stack(list(images)) if same else list(images)
        with exact_arithmetic(self.device), torch.no_grad():
            for name in asked:
                made = self.scorers[name](shown, self._beside(name, numbers))
                column = found[name] = torch.as_tensor(made).detach().reshape(-1, 1).float()
                if not (finite := column.isfinite().all(1)).all():
                    bad = int(numbers[int(finite.int().argmin())])
                    raise ValueError(
                        f"score {name!r} of image {bad} is NaN or infinite; look at that image, or the score"
                    )
        return found

    def _beside(self, name: str, numbers: Iterable[int]) -> list[Any] | None:
        """The prompts of these images, or the real images of their numbers, where the score asks for them."""
        scorer: Any = self.scorers[name]
        if not scorer.prompted:
            return None
        if self.others is not None and METRICS.named(name) == name and METRICS.find(name).paired:
            return [self.others.image(int(number)) for number in numbers]
        try:
            return [self.words[int(number)] for number in numbers]
        except (IndexError, KeyError) as error:
            raise ValueError(
                f"score {name!r} needs a prompt for every image, and there are {len(self.words)}: give prompts= (--prompts "
                "FILE), one an image in their order"
            ) from error


def checked_prompts(prompts: Any, count: int | None) -> Words:
    """One prompt an image; a text is that of all. ValueError: another number of them, or other things than texts."""
    if prompts is None:
        return []
    if isinstance(prompts, str):
        return _Always(prompts)
    found = list(prompts)
    odd = next((i for i, text in enumerate(found) if not isinstance(text, str)), None)
    if odd is not None:
        raise ValueError(f"prompts are texts; number {odd} is {type(found[odd]).__name__}")
    if count is not None and len(found) != count:
        raise ValueError(f"{len(found)} prompts were given for {count} images: give one an image, in their order")
    return found


def prompts_for(given: Any, count: int | None, number: int | None, processes: Any) -> Words:
    """Prompts of so many images, or of the first `number` of them; by their numbers where each process has its own."""
    if isinstance(given, dict):
        return given
    found = checked_prompts(given, min((k for k in (count, number) if k is not None), default=None))
    if not processes.own or isinstance(found, dict):
        return found
    return dict(zip(processes.numbers(range(len(found))).tolist(), found, strict=True))


def prompts_of(numbers: np.ndarray, prompts: Any) -> dict[int, str]:
    """Prompts by the numbers of their images; nothing where none were given. ValueError: other than one an image."""
    found = checked_prompts(prompts, len(numbers))
    return {int(number): found[0] if isinstance(found, dict) else found[i] for i, number in enumerate(numbers) if found}


class _Always(dict[int, str]):
    """One text for every number."""

    def __init__(self, text: str) -> None:
        super().__init__({0: text})
        self.text = text

    def __missing__(self, number: int) -> str:
        return self.text
