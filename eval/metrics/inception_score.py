"""Inception score: how far each image's class distribution is from the mean of all.

IS = exp( 1/n sum_i KL(p_i || q) ),   p_i = softmax(logits of image i),   q = 1/n sum_i p_i
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.checks import whole
from fewstep.eval.gaussian.features import Features
from fewstep.eval.metrics.blocks import Blocks, rows
from fewstep.eval.metrics.groups import group_means
from fewstep.eval.metrics.registry import metric
from fewstep.eval.report.result import Result, normal_interval


@metric(
    "is",
    reference="Improved Techniques for Training GANs, Salimans et al., 2016, arXiv 1606.03498",
    rows=("logits",),
    fewest=lambda options: int(options["splits"]),
    remedy="fewer splits",
    real=False,
    higher_is_better=True,
)
def inception_score(
    real: Features | None,
    generated: Features,
    *,
    splits: int = 10,
    shuffle: bool = True,
    seed: int = 2020,
    device: Any = None,
) -> list[Result]:
    """Inception score: the mean over disjoint splits, whose spread (ddof 0) is `details["sd"]`.

    Shuffling is torch-fidelity's, so equal logits give its value. `error` follows from the score's first-order change with
    each image, KL(p_i || q) - mean: it is of the sampling alone, and the score of n/splits images is biased low (see is_inf).

    Args:
        splits: number of disjoint parts.
        shuffle, seed: images are put in random order first: a folder sorted by class would give splits of few classes.
        device: where it is computed (float64).

    Raises:
        ValueError: fewer than two images a split, logits that are not finite.

    Reference: Improved Techniques for Training GANs, Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen, 2016,
    arXiv 1606.03498.
    """
    whole("is.splits", splits, 1)
    logits = rows(generated, "logits", "is", 2 * splits)
    n, x = len(logits), Blocks(logits, device=device)
    order = np.random.RandomState(seed).permutation(n) if shuffle else np.arange(n)
    scores, influence = [], x.filled(0)
    for s in range(splits):
        index = order[s * n // splits : (s + 1) * n // splits]
        distances = divergences(x, index)
        scores.append(float(distances.mean().exp()))
        influence[index] = scores[-1] * (distances - distances.mean())
    value, error = float(np.mean(scores)), float(influence.square().mean() / n) ** 0.5
    return [
        Result(
            "is",
            value,
            error,
            normal_interval(value, error),
            "first-order change with each image",
            details={"sd": float(np.std(scores)), "splits": splits, "seed": seed if shuffle else None},
            groups=group_means(value + influence),
        )
    ]


def divergences(x: Blocks, index: np.ndarray) -> Tensor:
    """KL(p_i || q) of these images, q their mean."""
    total, negentropy = moments(x, index)
    log_q = torch.where(total > 0, total / len(index), 1.0).log()  # a class that none has adds nothing
    cross = [logits.softmax(1) @ log_q for logits in x.taken(index)]
    return negentropy - torch.cat(cross)


def moments(x: Blocks, index: np.ndarray) -> tuple[Tensor, Tensor]:
    """sum_i p_i (classes,), and sum_c p_ic log p_ic of each image (n,)."""
    total, negentropy = torch.zeros(x.array.shape[1], dtype=torch.float64, device=x.place), []
    for logits in x.taken(index):
        log_p = logits.log_softmax(1)
        p = log_p.exp()
        total += p.sum(0)
        negentropy.append((p * log_p).sum(1))
    return total, torch.cat(negentropy)


def score(total: Tensor, negentropy: float, n: int) -> float:
    """IS from the sums over n images: exp( mean sum_c p log p - sum_c q log q )."""
    q = total / n
    return float(torch.exp(negentropy / n - torch.xlogy(q, q).sum()))
