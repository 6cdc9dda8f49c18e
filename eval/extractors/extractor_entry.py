"""The extractors by name: what is registered, the decorator that does it, and `extractor(name)`, which makes one.

@fewstep.eval.register_extractor("edges")
class Edges(fewstep.eval.Extractor):
    protocol, layers, parts = "own", {"edges": 64}, {"main": "edges"}
    ...

@fewstep.eval.register_extractor("thumbnails")
def thumbnails(size=8):
    return fewstep.eval.Function(lambda images: ..., dim=3 * size * size, size=size)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fewstep.eval.extractors.base import Extractor
from fewstep.eval.gaussian.features import PARTS
from fewstep.registry import Registry
from fewstep.samplers.noise.random_state import random_state_kept

M = TypeVar("M", bound=Callable[..., Any])


@dataclass(frozen=True)
class ExtractorEntry:
    """A registered extractor: `make(**options) -> Extractor`, a class or a function that loads weights when it is called."""

    name: str
    make: Callable[..., Extractor]

    @property
    def options(self) -> dict[str, Any]:
        """Names and defaults of what `make` takes."""
        return {name: p.default for name, p in inspect.signature(self.make).parameters.items()}


EXTRACTORS: Registry[ExtractorEntry] = Registry(
    "extractor",
    ExtractorEntry,
    homes=(
        "fewstep.eval.extractors.inception",
        "fewstep.eval.extractors.digits",
        "fewstep.eval.extractors.vision",
        "fewstep.eval.video.video_extractors",
    ),
    register="@fewstep.eval.register_extractor(name)",
)


def register_extractor(name: str) -> Callable[[M], M]:
    """Register an Extractor subclass, or a function that returns an Extractor, under a name; returned is what was given.

    Results call the extractor by this name, and `extractor(name, **options)`, `evaluate(extractor=name)` and `fewstep eval
    --extractor name` make it with no option but those that were said.

    Raises:
        ValueError: a name that is taken, or anything else than such a class or function.
    """

    def register(make: M) -> M:
        if isinstance(make, Extractor):
            raise ValueError(f"{name!r} is made already: register its class, or a function that makes it")
        if inspect.isclass(make):
            _check_class(name, make)
        elif not inspect.isfunction(make):
            raise ValueError(
                f"{name!r} is no extractor but {type(make).__name__}: register a subclass of fewstep.eval.Extractor, or a "
                "function that returns one"
            )
        needed = [p.name for p in inspect.signature(make).parameters.values() if p.default is p.empty and _named(p)]
        if needed:
            raise ValueError(f"extractor {name!r} is made from its name alone: give {', '.join(needed)} a default")
        EXTRACTORS.add(name, ExtractorEntry(name, make), make.__module__)
        return make

    return register


def _check_class(name: str, made: type) -> None:
    if not issubclass(made, Extractor):
        raise ValueError(
            f"{made.__name__} is no extractor: derive it from fewstep.eval.Extractor, or register a function that returns "
            "fewstep.eval.Function(f, dim)"
        )
    if missing := sorted(getattr(made, "__abstractmethods__", ())):
        raise ValueError(
            f"extractor {name!r} lacks {' and '.join(missing)}: define what fewstep.eval.Extractor asks for"
        )


def _named(p: inspect.Parameter) -> bool:
    """Whether it is one argument, not the rest of them."""
    return p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)


def extractor(name: str | Extractor, **options: Any) -> Extractor:
    """The registered extractor of that name, made with these options; an Extractor is returned as it is.

    Raises:
        ValueError: an unknown name (near ones are listed), options that it does not take, or any for an extractor that is
            made already; a registered function that makes something else.
    """
    if isinstance(name, Extractor):
        if options:
            raise ValueError(f"extractor {name.name!r} is made already; it takes no {', '.join(sorted(options))}.")
        return name
    if callable(name):
        raise ValueError("a function becomes an extractor with the number of its features: fe.Function(f, dim).")
    entry = EXTRACTORS.find(name)
    taken = inspect.signature(entry.make).parameters.values()
    known = [p.name for p in taken if _named(p)]
    refused = [option for option in options if option not in known]
    if refused and not any(p.kind is p.VAR_KEYWORD for p in taken):
        raise ValueError(f"extractor {name!r} takes no {', '.join(refused)}; it takes {', '.join(known) or 'nothing'}.")
    with random_state_kept():  # networks are made with random weights before they have their own
        return _complete(entry, entry.make(**options))


def _complete(entry: ExtractorEntry, made: Any) -> Extractor:
    """What was made, under the registered name. ValueError where it is no extractor or does not say all that one says."""
    if not isinstance(made, Extractor):
        raise ValueError(
            f"extractor {entry.name!r} made {type(made).__name__}: its function returns an Extractor, for example "
            "fewstep.eval.Function(f, dim)"
        )
    missing = [fact for fact in ("protocol", "layers", "parts") if not hasattr(made, fact)]
    if missing:
        raise ValueError(
            f"extractor {entry.name!r} does not say its {' and '.join(missing)}: see fewstep.eval.Extractor"
        )
    if not _fit(made.parts, made.layers):
        raise ValueError(
            f"extractor {entry.name!r} has the parts {dict(made.parts)} and the layers {dict(made.layers)}: `parts` names a "
            f"layer for 'main', and for others among {', '.join(PARTS)} where there are any"
        )
    if getattr(made, "name", None) != entry.name:
        made.name = entry.name
    return made


def _fit(parts: Mapping[str, str], layers: Mapping[str, int]) -> bool:
    return "main" in parts and set(parts) <= set(PARTS) and set(parts.values()) <= set(layers)
