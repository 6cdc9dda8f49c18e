"""The registry of learners: a method takes a task and a table, and gives a table that may be better."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

from fewstep.checks import unknown

FAMILIES = (
    "methods.gits",
    "methods.brute",
    "methods.oss",
    "methods.dmn",
    "methods.ays",
    "methods.iia",
    "methods.d_ode",
    "methods.late",
    "methods.dc",
    "methods.ems",
    "methods.joint",
    "methods.ld3",
    "methods.tta",
    "methods.dss",
    "methods.bns",
    "methods.s4s",
    "methods.bespoke",
    "methods.s3",
    "methods.polish",
    "methods.newton",
    "methods.auto",
)


@dataclass(frozen=True)
class Method:
    """A registered learner `f(task, start, *, options) -> Tableau`.

    learns: what it moves, of "grid", "coef", "tau". gradients: whether it needs those of the network. calls: whether it
    needs the network at all. check: raises ValueError for values it cannot take, before anything is done. options: keyword
    options with their defaults.
    """

    name: str
    fn: Callable[..., Any]
    learns: tuple[str, ...]
    reference: str
    gradients: bool = False
    calls: bool = True
    paths: bool = True
    check: Callable[[Mapping[str, Any]], object] | None = None

    @cached_property
    def options(self) -> dict[str, Any]:
        """Option name -> default."""
        parameters = inspect.signature(self.fn).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The given options; ValueError for one the method does not have or cannot do."""
        for key in options:
            if key not in self.options:
                known = ", ".join(self.options) or "none"
                raise ValueError(f"method {self.name!r} has no option {key!r}; its options: {known}")
        if self.check is not None:
            self.check(options)
        return dict(options)


_METHODS: dict[str, Method] = {}


def method(name: str, *, learns: tuple[str, ...], reference: str, **facts: Any) -> Callable[[Any], Any]:
    """Register `f(task, start, *, options) -> Tableau`."""

    def register(fn: Any) -> Any:
        _METHODS[name] = Method(name, fn, learns, reference, **facts)
        return fn

    return register


class _Methods(Mapping[str, Method]):
    """Registered methods by name; their modules are imported on first look."""

    @cached_property
    def _table(self) -> dict[str, Method]:
        for family in FAMILIES:
            import_module(f"fewstep.samplers.learned.{family}")
        return dict(_METHODS)

    def __getitem__(self, name: str) -> Method:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


METHODS: Mapping[str, Method] = _Methods()


def find(name: str) -> Method:
    """The method of that name; ValueError with near names for an unknown one."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]
