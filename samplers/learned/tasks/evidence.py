"""Is one table certainly better than another? A paired test that asks for more samples until it knows.

Both tables draw the same samples. With a_i and b_i their mean squares,

    gain  = exp(mean_i log sqrt(a_i / b_i)),
    tails = sqrt(mean_i min(a_i, c) / mean_i min(b_i, c)),    c: the 99 % quantile of all a_i and b_i.

The gain is owned by no sample. The tails are those of the largest errors, and owned by none alone: a plain rms is that of one
or two samples that end in another mode, and other seeds give another. A table is better where its gain is certainly below 1
and its tails are certainly less than TOLERATED. Logarithms of both are normal to good approximation, so that

    log of the bound = log of the estimate + z(level) * s / sqrt(n).

Looking several times and at several candidates spends the same ALPHA: candidate k may spend ALPHA / 2^k; of that the last look
has one half, and the earlier ones share the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from torch import Tensor

ALPHA = 0.025  # probability of taking what is no better, over all looks and candidates
TOLERATED = 1.1  # of the tails: a tenth is what a thousand samples can tell
SHARE = 0.99  # quantile of the errors from which on all count alike
FEWEST = 128  # samples of the first look; each further one has twice as many
TINY = 1e-30
Array = Any


@dataclass(frozen=True)
class Ratio:
    """An estimate and the bounds that the truth lies between, each at the level of the look."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Evidence:
    """What `samples` samples say of one candidate. verdict: "better", "worse", or "open"."""

    samples: int
    gain: Ratio
    tails: Ratio
    verdict: str

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def looks(count: int) -> list[int]:
    """Numbers of samples at which is looked: 128, 256, 512, ... and all there are."""
    found = [FEWEST]
    while 2 * found[-1] <= count:
        found.append(2 * found[-1])
    return [n for n in found if n < count] + [count]


def levels(number: int, candidate: int = 0) -> list[float]:
    """What each look may spend."""
    own = ALPHA / 2 ** (candidate + 1)
    return [own] if number == 1 else [own / 2 / (number - 1)] * (number - 1) + [own / 2]


def evidence(learned: Tensor, base: Tensor, level: float, floor: float = 0.0) -> Evidence:
    """What errors of two tables on the same samples say.

    Args:
        learned, base: (n,) mean squares. level: one-sided, of every bound. floor: error below which the reference does not
            know either; no error counts as less.
    """
    a, b = (np.maximum(np.nan_to_num(v.numpy(), posinf=1e30), max(TINY, floor**2)) for v in (learned, base))
    cap = np.quantile(np.concatenate([a, b]), SHARE)
    z = NormalDist().inv_cdf(1 - level)
    gain = _ratio(np.log(a / b), z)
    u, v = np.minimum(a, cap), np.minimum(b, cap)
    tails = _ratio(u / u.mean() - v / v.mean() + np.log(u.mean() / v.mean()), z)  # linear in the samples
    unseen = np.sqrt(1 + cap / u.sum())  # one more sample that is lost: of few, such as are rare may not have come yet
    tails = replace(tails, high=float(tails.high * unseen))
    if gain.high < 1 and tails.high < TOLERATED:
        verdict = "better"
    else:
        verdict = "worse" if gain.low >= 1 or tails.low > TOLERATED else "open"
    return Evidence(len(a), gain, tails, verdict)


def _ratio(logs: Array, z: float) -> Ratio:
    """exp of half the mean of logarithms of ratios of mean squares, with bounds."""
    middle, half = logs.mean() / 2, z * logs.std(ddof=1) / 2 / np.sqrt(len(logs))
    return Ratio(*(float(np.exp(min(v, 700.0))) for v in (middle, middle - half, middle + half)))


def sought(
    errors: Callable[[int, int], tuple[Tensor, Tensor]], count: int, candidates: int, floor: float = 0.0
) -> tuple[int | None, list[list[Evidence]]]:
    """The first candidate that is certainly better, None where there is none; and what was seen of each that was tried.

    Args:
        errors: (candidate, samples) -> (n,) mean squares of the candidate and of the base. count: samples there are.
        candidates: how many, best first.
    """
    seen: list[list[Evidence]] = []
    for k in range(candidates):
        seen.append([])
        spend = looks(count)
        for n, level in zip(spend, levels(len(spend), k), strict=True):
            seen[-1].append(evidence(*errors(k, n), level, floor))
            if seen[-1][-1].verdict != "open":
                break
        if seen[-1][-1].verdict == "better":
            return k, seen
    return None, seen


def words(seen: Sequence[Evidence]) -> str:
    """Why a candidate was taken or refused, in a sentence."""
    last = seen[-1]
    gain = f"gain {last.gain.ratio:.3g} (at most {last.gain.high:.3g})"
    tails = f"tails {last.tails.ratio:.3g} (at most {last.tails.high:.3g}, up to {TOLERATED:g} is borne)"
    return f"{last.verdict} after {last.samples} samples: {gain}, {tails}"
