"""The registry of what weights are tuned by: a function of a scene, a batch of samples through the table.

    @tuning_loss("bright", reference="")
    def bright(scene: Scene, *, level: float = 0.5) -> Tensor:
        return (scene.images.mean() - level).square()     # one number, with a graph to the weights

From then on `tune(..., loss="bright")` knows it, sums and the command line too: "pairs+bright".
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

from fewstep.registry import Registry

HOMES = tuple(
    f"fewstep.adjoint.tuning.losses.{name}"
    for name in ("pairs_of_samples", "set_distance", "embedded_error", "fokker_planck", "by_reward")
)
NEEDS = ("teacher", "data", "reward")
JUDGES = ("error", "loss")


@dataclass(frozen=True)
class TuningLoss:
    """A registered loss `f(scene, *, options) -> one number`.

    needs: of "teacher" (ends of long runs), "data" and "reward"; spares: whether with these options it needs none of them.
    alone: whether it can be lowered by itself; others are for beside one that can. judge: what the guard compares, "error",
    the mean squares to the teacher, or a function of what was drawn (`Drawn`) that gives one number a sample, whose mean is
    the loss.
    """

    name: str
    fn: Callable[..., Any]
    reference: str
    _: KW_ONLY
    needs: tuple[str, ...] = ()
    alone: bool = True
    judge: str | Callable[..., Any] = "error"
    spares: Callable[[Mapping[str, Any]], bool] | None = None

    @cached_property
    def options(self) -> dict[str, Any]:
        """Option name -> default."""
        parameters = inspect.signature(self.fn).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The given options; ValueError for one that it does not have."""
        for key in options:
            if key not in self.options:
                known = ", ".join(self.options) or "none"
                raise ValueError(f"loss {self.name!r} has no option {key!r}; its options: {known}, and `weight`")
        return dict(options)


LOSSES: Registry[TuningLoss] = Registry("loss", TuningLoss, HOMES, "@fewstep.adjoint.tuning_loss(name, reference=...)")


def tuning_loss(name: str, *, reference: str, needs: Sequence[str] = (), **facts: Any) -> Callable[[Any], Any]:
    """Register `f(scene, *, options) -> one number` under a name, at any time, from any package.

    Args:
        name: a word, for `tune(loss=...)`. reference: title, authors, year, arXiv. needs: of "teacher", "data", "reward".
        facts: `alone`, `judge` and `spares` of a TuningLoss.

    Raises:
        ValueError: a name that exists, an unknown need or fact, a function whose options have no names and defaults.
    """

    def register(fn: Any) -> Any:
        parameters = list(inspect.signature(fn).parameters.values()) if callable(fn) else []
        odd = [p for p in parameters[1:] if p.kind is not p.KEYWORD_ONLY or p.default is p.empty]
        if not parameters or odd:
            raise ValueError(
                f"loss {name!r} must take a scene, and options that are keyword-only with defaults: f(scene, *, level=0.5)"
            )
        if isinstance(needs, str) or not set(needs) <= set(NEEDS):
            raise ValueError(f"`needs` of loss {name!r} lists what it asks for, of {', '.join(NEEDS)}; got {needs!r}")
        if strange := set(facts) - {"alone", "judge", "spares"}:
            raise ValueError(f"a loss has no {', '.join(sorted(strange))}; it has alone, judge and spares")
        LOSSES.add(name, TuningLoss(name, fn, reference, needs=tuple(needs), **facts), fn.__module__)
        return fn

    return register


@dataclass(frozen=True)
class Term:
    """One loss of a sum, with its weight and options."""

    entry: TuningLoss
    weight: float
    options: Mapping[str, Any]

    @property
    def needs(self) -> tuple[str, ...]:
        """With these options."""
        spares = self.entry.spares
        return () if spares is not None and spares(self.options) else self.entry.needs


def terms_of(loss: Any) -> tuple[Term, ...]:
    """The sum that is meant: "pairs", "pairs+error", [("pairs", {...}), ...], or {"pairs": 1.0, "error": 0.1}.

    Raises:
        ValueError: unknown names and options, one loss twice, a weight that is not positive, none that can be alone.
    """
    given = _listed(loss)
    terms: list[Term] = []
    for name, options in given:
        entry, own = LOSSES.find(name), dict(options)
        weight = own.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise ValueError(f"`weight` of loss {entry.name!r} must be a number above 0; got {weight!r}")
        terms.append(Term(entry, float(weight), entry.checked(own)))
    names = [term.entry.name for term in terms]
    if not terms or len(set(names)) < len(names):
        raise ValueError(f"`loss` names what is lowered, each once: 'pairs', or 'pairs+error'; got {loss!r}")
    if not any(term.entry.alone for term in terms):
        raise ValueError(
            f"{' and '.join(map(repr, names))} can be lowered by a network that draws nothing: take it beside another, such "
            f"as loss='pairs+{names[0]}'"
        )
    return tuple(sorted(terms, key=lambda term: not term.entry.alone))


def _listed(loss: Any) -> list[tuple[str, Mapping[str, Any]]]:
    if isinstance(loss, str):
        return [(name.strip(), {}) for name in loss.split("+")]
    if isinstance(loss, Mapping):
        return [(name, {"weight": weight}) for name, weight in loss.items()]
    if isinstance(loss, Sequence):
        return [(one, {}) if isinstance(one, str) else (one[0], dict(one[1])) for one in loss]
    raise ValueError(
        f"`loss` must be a name, a sum of names such as 'pairs+error', or [(name, options), ...]; got {type(loss).__name__}"
    )
