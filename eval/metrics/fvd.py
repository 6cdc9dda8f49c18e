"""The Frechet video distance: that of images, on features of clips."""

from __future__ import annotations

from fewstep.eval.gaussian.features import Features
from fewstep.eval.metrics.fid_and_sfid import distance_of
from fewstep.eval.metrics.registry import metric
from fewstep.eval.report.result import Result

UNTERTHINER = (
    "Towards Accurate Generative Models of Video: A New Metric & Challenges, Unterthiner et al., 2018, arXiv 1812.01717"
)


@metric("fvd", reference=UNTERTHINER, statistics=("main",), clips=True)
def fvd(real: Features, generated: Features, *, interval: bool = True) -> list[Result]:
    """Squared Frechet distance of features of clips; values of other networks, frames, strides or numbers are not comparable.

    FVD = |mu_1 - mu_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1 C_2)^(1/2), lower is better; biased upwards by about k / N.

    interval: also its standard error, of the sampling of the generated clips (the real side counts as fixed).

    Reference: Towards Accurate Generative Models of Video: A New Metric & Challenges, Unterthiner, van Steenkiste, Kurach,
    Marinier, Michalski, Gelly, 2018, arXiv 1812.01717.
    """
    return [distance_of("fvd", "main", real, generated, interval)]
