"""The registry of learners: a method takes a task and a table, and gives a table that may be better.

    @fewstep.samplers.learner("mine", learns=("grid",), reference="")
    def mine(task: Task, start: Tableau, *, samples: int = 64) -> Tableau:
        errors = task.errors(start, task.train_parts())    # of the training seeds; task.offer(table) tells how it goes
        ...
        return better    # or `start`

From then on `learn(..., method="mine")` knows it, chains and the command line too.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from fewstep.registry import Registry, source_of

HOMES = tuple(
    f"fewstep.samplers.learned.methods.{name}"
    for name in (
        "gits",
        "brute",
        "oss",
        "dmn",
        "ays",
        "iia",
        "d_ode",
        "late",
        "dc",
        "ems",
        "joint",
        "ld3",
        "tta",
        "dss",
        "bns",
        "s4s",
        "bespoke",
        "s3",
        "polish",
        "newton",
        "epd",
        "filter",
        "l2p",
        "auto",
    )
)
KINDS = (
    "grid",
    "coef",
    "tau",
    "filter",
    "cache",
)  # of a table: where it steps, its weights, the times it shows, its filters,
# and which blocks of the network its rows leave out


@dataclass(frozen=True)
class Learner:
    """A registered learner `f(task, start, *, options) -> Tableau`, with as many evaluations as `start`.

    learns: what it moves, of "grid", "coef", "tau". gradients: whether it needs those of the network. calls: whether it
    needs the network at all. paths: whether it needs the reference's states on the way. check: raises ValueError for values
    it cannot take, before anything is done.
    """

    name: str
    fn: Callable[..., Any]
    learns: tuple[str, ...]
    reference: str
    _: KW_ONLY
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

    @cached_property
    def version(self) -> str:
        """What tells functions of one name apart where results are kept on disk; "" for the library's own.

        A method from outside is changed and run again, as notebooks do: its old results are not its new ones.
        """
        if self.fn.__module__ in HOMES:
            return ""
        return hashlib.sha256(source_of(self.fn).encode()).hexdigest()[:16]


def as_told(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as reports and names of files tell them: data by shape and hash, numbers and words as they are."""
    return {name: _told(value) for name, value in options.items()}


def _told(value: Any) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        array = np.asarray(value.detach().float().cpu() if isinstance(value, Tensor) else value)
        return {"shape": list(array.shape), "sha256": hashlib.sha256(array.tobytes()).hexdigest()[:16]}
    if isinstance(value, list | tuple) and value and (hasattr(value[0], "shape") or hasattr(value[0], "getbands")):
        return [_told(np.array(one)) for one in value]
    return value


METHODS: Registry[Learner] = Registry(
    "method", Learner, HOMES, "@fewstep.samplers.learner(name, learns=..., reference=...)"
)


def learner(name: str, *, learns: Sequence[str], reference: str, **facts: Any) -> Callable[[Any], Any]:
    """Register `f(task, start, *, options) -> Tableau` under a name, at any time, from any package.

    Args:
        name: a word, for `learn(method=...)`. learns: what it moves, of "grid", "coef" (weights) and "tau" (network times).
        reference: title, authors, year, arXiv. facts: further fields of Learner: gradients, calls, paths, check.

    Raises:
        ValueError: a name that exists, facts that a Learner does not have, a function that takes no task and table or whose
            options are not keyword-only with defaults.
    """

    def register(fn: Any) -> Any:
        METHODS.add(name, _entry(name, fn, learns, reference, facts), fn.__module__)
        return fn

    return register


def _entry(name: str, fn: Any, learns: Sequence[str], reference: str, facts: Mapping[str, Any]) -> Learner:
    """The entry of a function; ValueError where it cannot be one."""
    if not callable(fn) or isinstance(fn, type):
        raise ValueError(f"method {name!r} must be a function f(task, start, *, options) -> Tableau; got {fn!r:.60}")
    given = list(inspect.signature(fn).parameters.values())
    front, options = given[:2], given[2:]
    if (
        len(front) < 2
        or any(p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in front)
        or any(p.kind is not p.KEYWORD_ONLY or p.default is p.empty for p in options)
    ):
        raise ValueError(
            f"method {name!r} must take a task and a table, and options that are keyword-only with defaults: "
            f"f(task, start, *, samples=64); got {getattr(fn, '__name__', 'f')}{inspect.signature(fn)}"
        )
    if isinstance(learns, str) or not learns or not set(learns) <= set(KINDS):
        raise ValueError(f"`learns` of method {name!r} lists what it moves, of {', '.join(KINDS)}; got {learns!r}")
    known = [field for field in Learner.__dataclass_fields__ if field not in ("name", "fn", "learns", "reference")]
    if strange := [fact for fact in facts if fact not in known]:
        raise ValueError(f"a method has no {', '.join(map(repr, strange))}; it has {', '.join(known)}")
    return Learner(name, fn, tuple(learns), reference, **facts)
