"""F-score of precision and recall: one number for quality and diversity.

F_beta = (1 + beta^2) P R / (beta^2 P + R)
"""

from __future__ import annotations

from typing import Any

from fewstep.checks import positive
from fewstep.eval.gaussian.features import Features
from fewstep.eval.metrics.blocks import BLOCK
from fewstep.eval.metrics.prdc import prdc, wilson
from fewstep.eval.metrics.registry import metric
from fewstep.eval.report.result import Result

Z = 2.241402727604947  # of two intervals of 97.5 %, which hold both with at least 95 %


@metric(
    "f_score",
    reference="Assessing Generative Models via Precision and Recall, Sajjadi et al., 2018, arXiv 1806.00035; of the precision "
    "and recall of Kynkaanniemi et al., 2019, arXiv 1904.06991",
    rows=("main",),
    fewest=lambda options: int(options["k"]) + 1,
    remedy="a smaller k",
    higher_is_better=True,
)
def f_score(
    real: Features, generated: Features, *, beta: float = 1.0, k: int = 5, block: int = BLOCK, device: Any = None
) -> list[Result]:
    """F_beta of `prdc`'s precision and recall at the same k; both are in `details`.

    It grows with either, so its interval is between its values at both ends of two intervals of 97.5 % each: at least 95 %.

    Args:
        beta: above 1 recall counts more, below 1 precision.
        k, block, device: as of `prdc`.

    Raises:
        ValueError: whatever `prdc` refuses; a beta that is not positive.

    Reference: Assessing Generative Models via Precision and Recall, Sajjadi, Bachem, Lucic, Bousquet, Gelly, 2018,
    arXiv 1806.00035.
    """
    square = positive("f_score.beta", beta) ** 2
    precision, recall, *_ = prdc(real, generated, k=k, block=block, device=device)

    def score(p: float, r: float) -> float:
        return (1 + square) * p * r / (square * p + r) if p + r else 0.0

    sides = ((precision, len(generated.rows["main"])), (recall, len(real.rows["main"])))
    ends = [wilson(of.value, n, Z) for of, n in sides]
    return [
        Result(
            "f_score",
            score(precision.value, recall.value),
            interval=(score(ends[0][0], ends[1][0]), score(ends[0][1], ends[1][1])),
            method="Wilson of precision over generated images and of recall over real ones, together at least 95 %",
            details={"precision": precision.value, "recall": recall.value, "beta": beta, "k": k},
        )
    ]
