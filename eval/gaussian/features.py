"""What one pass over a set of images leaves behind: moments and feature vectors, and under what they were made."""

from __future__ import annotations

import hashlib
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np

from fewstep.eval.gaussian.statistics import FeatureStatistics

# The parts that layers can play: metrics ask for a part, the extractor says which of its layers has it.
PARTS = ("main", "logits", "spatial")


@dataclass(frozen=True)
class Meta:
    """Under what features were made. Empty strings are not recorded (a file of somebody else's)."""

    extractor: str = ""
    protocol: str = ""
    hash: str = ""
    precision: str = "fp32"
    _: KW_ONLY
    source: str = ""  # what the images are, in words
    lossy: bool | None = None  # JPEG and the like; None: not known
    skipped: int = 0  # unreadable images passed over
    version: str = ""  # of the library that made them
    published: bool | None = None  # whether its weights are the published ones; None: not known

    @classmethod
    def of(cls, extractor: Any, **facts: Any) -> Meta:
        """Of what an extractor makes."""
        made_by = (extractor.name, extractor.protocol, extractor.hash, extractor.precision)
        return cls(*made_by, published=extractor.published, **facts)


def of_published(real: Meta, generated: Meta) -> bool | None:
    """Whether both sets were made with published weights; None where it is not known of one of them.

    What one of equal hash knows, both know.
    """
    told = (real.published, generated.published)
    if real.hash and real.hash == generated.hash:
        return True if True in told else False if False in told else None
    return False if False in told else None if None in told else True


@dataclass
class Features:
    """Features of one set of images, for each part ("main", "logits", "spatial") what its metrics asked for.

    Attributes:
        n: number of images; None where a file does not say.
        statistics: part -> FeatureStatistics (n, mean, covariance, and a sample).
        rows: part -> float32 (n, d) in the order of the samples, possibly memory-mapped.
        meta: under what they were made.
        layers: part -> name of the extractor's layer.
        numbers: of the samples, in the order of the rows, where they were counted.
        labels: class of each row, a word, where it is known.
    """

    n: int | None
    statistics: dict[str, FeatureStatistics] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    meta: Meta = field(default_factory=Meta)
    layers: dict[str, str] = field(default_factory=dict)
    numbers: np.ndarray | None = None
    labels: np.ndarray | None = None

    def check(self) -> None:
        """ValueError where statistics that were given are of no covariance."""
        for part, statistics in self.statistics.items():
            if statistics.known is None:
                continue
            try:
                statistics.known.check()
            except ValueError as error:
                raise ValueError(f"{self.meta.source or 'features'}, {part}: {error}") from error


def content_of(features: Features) -> str:
    """What tells features from others: their number, where they were made, the means of all parts, the first vectors."""
    made = hashlib.sha256(repr((features.n, features.meta.extractor, features.meta.protocol)).encode())
    for _, statistics in sorted(features.statistics.items()):
        made.update(statistics.mean.cpu().numpy().tobytes())
    for _, rows in sorted(features.rows.items()):
        made.update(np.ascontiguousarray(rows[:64]).tobytes())
    return made.hexdigest()[:16]
