"""What an evaluation says: a number, how sure it is, and everything it must be compared under."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

# Names with other extractors than Inception: nobody shall take FD-digits for FID.
_SHARED = {"is": "IS", "is_inf": "IS-inf", "kid": "KID", "kid_full": "KID-full", "mind": "MIND"}
_FRECHET = {"fid": "", "fid_inf": "-inf", "fid_debiased": "-debiased"}
_FAMILY = {
    **_SHARED,
    **{m: f"FD{end}" for m, end in _FRECHET.items()},
    "sfid": "sFD",
    "fvd": "FVD",
    "intra_fid": "intra-FD",
}
_INCEPTION = {**_SHARED, **{m: f"FID{end}" for m, end in _FRECHET.items()}, "sfid": "sFID", "intra_fid": "intra-FID"}
# The layers that metrics of Inception were published with: pool, spatial, logits. Others are named.
_USUAL = ("", "2048", "sfid", "logits_unbiased", "logits")
# Measured image by image on shared noise (eval/compare), beside the registered ones, whose names these cannot be.
PAIRED = ("rmse", "psnr", "lpips")
# Metrics of which more is better; of all others that come with the library, less.
HIGHER = frozenset({"is", "is_inf", "precision", "recall", "density", "coverage", "psnr", "f_score"})
_FIXED = {
    "rmse": "RMSE",
    "psnr": "PSNR",
    "lpips": "LPIPS",
    "lpips_pairs": "LPIPS-pairs",
    "cmmd": "CMMD",
    "clip_score": "CLIP-score",
    "pick_score": "PickScore",
}
UNKNOWN = "(features unknown)"


@dataclass(frozen=True)
class Result:
    """One value of one metric.

    Attributes:
        metric: its name in the registry, e.g. "fid".
        value: the number; `float(result)` is the same.
        error: one standard error of it, of the generated side's sampling; None where there is no estimate.
        interval: 95 % interval (low, high), or None.
        method: how `error` and `interval` were found, e.g. "influences of 2048 of the generated images, first order".
        n, n_real: numbers of images (None: not recorded in the file, or no reference at all).
        extractor, protocol, layer, hash, precision: under what features it was measured.
        published: whether the weights of both sides are known to be the published ones, which alone makes a value of
            Inception FID. None: not known of one of them.
        details: other numbers that belong to it: error bound, slope, k, splits, seeds ...
        higher_is_better: direction; known of the library's own metrics, and told by those that others register.
        groups: what each group of samples adds to the value, to first order (jackknife pseudo-values): for paired differences.
    """

    metric: str
    value: float
    error: float | None = None
    interval: tuple[float, float] | None = None
    method: str = ""
    _: KW_ONLY
    n: int | None = None
    n_real: int | None = None
    extractor: str = ""
    protocol: str = ""
    layer: str = ""
    hash: str = ""
    precision: str = "fp32"
    published: bool | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    groups: tuple[float, ...] = ()
    higher_is_better: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "higher_is_better", self.higher_is_better or self.metric in HIGHER)

    def __float__(self) -> float:
        return float(self.value)

    @property
    def label(self) -> str:
        """What people call it: "FID", "FD-digits", "KID" ...; "FD (features unknown)" where nobody recorded of what it is."""
        if self.metric in _FIXED:
            return _FIXED[self.metric]
        if self.extractor == self.metric:  # a score of single images, which is of no extractor
            return self.metric
        base, bracket, of_class = self.metric.partition("[")
        family = _FAMILY.get(base, base) + bracket + of_class
        if not self.extractor:
            return f"{family} {UNKNOWN}"
        layer = f"-{self.layer}" if self.extractor == "inception" and self.layer not in _USUAL else ""
        if self.extractor == "inception" and self.published and not layer:
            return _INCEPTION.get(base, base) + bracket + of_class
        unknown = " (weights unknown)" if self.extractor == "inception" and self.published is None else ""
        return f"{family}-{self.extractor}{layer}{unknown}"

    @property
    def features(self) -> tuple[str, ...]:
        """Under what features it was measured, in words; weights that are not the published ones by their hash."""
        layer, weights = self.layer and f"layer {self.layer}", f"weights {self.hash}" if self.published is False else ""
        return tuple(filter(None, (self.protocol, weights, layer, self.precision)))

    def __str__(self) -> str:
        sure = "" if self.interval is None else f" [{self.interval[0]:.6g}, {self.interval[1]:.6g}]"
        counts = " vs ".join(str(n) for n in (self.n, self.n_real) if n is not None)
        weights = f"weights {self.hash}; " if self.published is False else ""
        return (
            f"{self.label} {self.value:.6g}{sure} (N {counts or 'unknown'}; {self.protocol or 'protocol unknown'}; "
            f"{weights}{self.precision})"
        )

    def under(self, **facts: Any) -> Result:
        """The same with some facts filled in."""
        return replace(self, **facts)


def normal_interval(value: float, error: float, quantile: float = 1.959963984540054) -> tuple[float, float]:
    """value -+ quantile * error."""
    return value - quantile * error, value + quantile * error
