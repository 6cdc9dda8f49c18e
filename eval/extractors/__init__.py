"""Networks that turn images into features: `extractor("inception", protocol="tf")`, and what is registered."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from typing import Any

from fewstep.checks import unknown
from fewstep.eval.extractors.base import Extractor, Function

# Name -> module and class; a class takes keyword options and loads its weights when it is made.
EXTRACTORS = {
    "inception": (".inception", "InceptionV3"),
    "digits": (".digits", "Digits"),
    "dinov2": (".vision", "DINOv2"),
    "clip": (".vision", "CLIP"),
}


def extractor(name: str | Extractor, **options: Any) -> Extractor:
    """The registered extractor of that name, made with these options; an Extractor is returned as it is.

    Raises:
        ValueError: an unknown name (near ones are listed), or options for an extractor that is made already.
    """
    if isinstance(name, Extractor):
        if options:
            raise ValueError(f"extractor {name.name!r} is made already; it takes no {', '.join(sorted(options))}.")
        return name
    if callable(name):
        raise ValueError("a function becomes an extractor with the number of its features: fe.Function(f, dim).")
    if name not in EXTRACTORS:
        raise unknown("extractor", name, EXTRACTORS)
    module, cls = EXTRACTORS[name]
    made = getattr(import_module(module, __name__), cls)
    taken = signature(made).parameters
    if refused := [option for option in options if option not in taken]:
        raise ValueError(f"extractor {name!r} takes no {', '.join(refused)}; it takes {', '.join(taken) or 'nothing'}.")
    return made(**options)


__all__ = ["EXTRACTORS", "Extractor", "Function", "extractor"]
