"""Frechet distances class by class, from the labels of one pass: every class by itself, and their mean.

intra-FID = mean_c FID( real images of class c, generated images of class c )
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from fewstep.eval.gaussian.features import Features
from fewstep.eval.gaussian.statistics import FeatureStatistics
from fewstep.eval.metrics.blocks import BLOCK, both
from fewstep.eval.metrics.fid_and_sfid import distance_of
from fewstep.eval.metrics.registry import metric
from fewstep.eval.report.result import Result, normal_interval

MIYATO = "cGANs with Projection Discriminator, Miyato and Koyama, 2018, arXiv 1802.05637"


@metric("fid_per_class", reference=MIYATO, rows=("main",), labelled=True)
def fid_per_class(real: Features, generated: Features, *, interval: bool = True) -> list[Result]:
    """The squared Frechet distance of each class, `fid[CLASS]`, between images of both sides that have its label.

    Each is biased as the distance of all would be at so few images: compare at equal numbers.

    interval: also standard errors, of the sampling of the generated images.

    Raises:
        ValueError: a class that one side has and the other lacks, or with fewer than two images.

    Reference: cGANs with Projection Discriminator, Miyato, Koyama, 2018, arXiv 1802.05637.
    """
    return [
        result for _, result in sorted(_of_classes(real, generated, "fid_per_class", interval).items(), key=_natural)
    ]


@metric("intra_fid", reference=MIYATO, rows=("main",), labelled=True)
def intra_fid(real: Features, generated: Features, *, interval: bool = True) -> list[Result]:
    """The mean of the classes' distances; `details["classes"]` has each of them.

    interval: also its standard error: the root of the mean of squares of the classes' errors, over the root of their number.

    Raises:
        ValueError: as of `fid_per_class`.

    Reference: cGANs with Projection Discriminator, Miyato, Koyama, 2018, arXiv 1802.05637.
    """
    found = _of_classes(real, generated, "intra_fid", interval)
    value = float(np.mean([result.value for result in found.values()]))
    fewest = min(min(result.n or 0, result.n_real or 0) for result in found.values())
    details = {"classes": {label: result.value for label, result in found.items()}, "fewest": fewest}
    errors = [result.error for result in found.values() if result.error is not None]
    if len(errors) < len(found):
        return [Result("intra_fid", value, method="no interval: too few images of a class", details=details)]
    error = sqrt(sum(e * e for e in errors)) / len(errors)
    method = f"influences in each of {len(errors)} classes, first order; covers what is expected of so few images"
    return [Result("intra_fid", value, error, normal_interval(value, error), method, details=details)]


def _of_classes(real: Features, generated: Features, name: str, interval: bool) -> dict[str, Result]:
    """The distance of each class."""
    x, y = both(real, generated, "main", name, 2)
    sides = [(_places(side, name), rows) for side, rows in ((real, x), (generated, y))]
    theirs, ours = (places for places, _ in sides)
    if apart := sorted(theirs.keys() ^ ours.keys()):
        having, lacking = ("real", "generated") if apart[0] in theirs else ("generated", "real")
        raise ValueError(
            f"{name} compares class by class: the {having} images have {apart[0]!r}, and the {lacking} ones do not "
            f"({len(apart)} such classes): give the same classes on both sides"
        )
    found = {}
    for label in ours:
        one, other = (_features(rows, places[label], name, label) for places, rows in sides)
        result = distance_of(f"fid[{label}]", "main", one, other, interval)
        found[label] = result.under(n=other.n, n_real=one.n)
    return found


def _places(side: Features, name: str) -> dict[str, np.ndarray]:
    """Rows of each class."""
    if side.labels is None or len(side.labels) != len(side.rows["main"]):
        raise ValueError(f"{name} needs the class of every image, and {side.meta.source or 'these features'} have none")
    labels, inverse = np.unique(side.labels, return_inverse=True)
    return {str(label): np.flatnonzero(inverse == i) for i, label in enumerate(labels)}


def _features(rows: np.ndarray, places: np.ndarray, name: str, label: str) -> Features:
    if len(places) < 2:
        raise ValueError(f"{name}: class {label!r} has {len(places)} image on one side, and a covariance needs two")
    statistics = FeatureStatistics(rows.shape[1])
    for start in range(0, len(places), BLOCK):
        statistics.update(np.asarray(rows[places[start : start + BLOCK]]))
    return Features(len(places), {"main": statistics})


def _natural(item: tuple[str, Result]) -> tuple[bool, int, str]:
    """Numbers by their size, before words."""
    label = item[0]
    return (False, int(label), "") if label.isdecimal() else (True, 0, label)
