"""Checks of solver options: the error says what was given and what is expected."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any

from fewstep import checks


def one_of(solver: str, option: str, value: Any, known: Iterable[Any]) -> Any:
    """The value, which must be one of `known`."""
    known = tuple(known)
    if value not in known:
        raise ValueError(f"{solver}: `{option}` must be one of {', '.join(map(repr, known))}; got {value!r}")
    return value


def whole(solver: str, option: str, value: Any, most: int, least: int = 1) -> int:
    """The value as a whole number in least..most."""
    return checks.whole(option, value, least, most, where=solver)


def fraction(solver: str, option: str, value: Any, most: float = 1.0) -> float:
    """The value as a number in (0, most]."""
    if not isinstance(value, Real) or not 0 < float(value) <= most:
        raise ValueError(f"{solver}: `{option}` must be in (0, {most:g}]; got {value!r}")
    return float(value)


def number(solver: str, option: str, value: Any, most: float = float("inf"), least: float = 0.0) -> float:
    """The value as a number in [least, most]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= float(value) <= most:
        wanted = f"at least {least:g}" if most == float("inf") else f"{least:g}..{most:g}"
        raise ValueError(f"{solver}: `{option}` must be {wanted}; got {value!r}")
    return float(value)


def positive(solver: str, **options: Any) -> tuple[float, ...]:
    """The values of several options, finite numbers above 0."""
    return tuple(checks.positive(option, value, where=solver) for option, value in options.items())


def several(solver: str, option: str, value: Any) -> frozenset[int]:
    """The value as a set of step numbers."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{solver}: `{option}` must be a list of step numbers; got {value!r}")
    return frozenset(whole(solver, option, item, most=10**9, least=0) for item in value)


def taper(value: Any) -> Any:
    """The value of `lower_order_final`."""
    return one_of("multistep solver", "lower_order_final", value, (True, False, "zero", "always"))


def form(solver: str, value: Any) -> str:
    """The value of `form`."""
    return str(one_of(solver, "form", value, ("x0", "eps")))
