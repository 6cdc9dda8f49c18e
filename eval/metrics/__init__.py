"""The metrics: each a function of the features of two sets, registered in `METRICS`."""

from __future__ import annotations

from importlib import import_module

from fewstep.checks import unknown
from fewstep.eval.gaussian.features import METRICS, Metric

_FAMILIES = ("fid", "kid", "inception_score", "prdc", "extrapolated", "cmmd")


def metrics() -> dict[str, Metric]:
    """Every registered metric by name."""
    for family in _FAMILIES:
        import_module(f".{family}", __name__)
    return METRICS


def find(name: str) -> Metric:
    """The metric of that name; ValueError with near names for an unknown one."""
    known = metrics()
    if name not in known:
        raise unknown("metric", name, known)
    return known[name]
