"""What a caller sees of a run: each step as it is made, and what the whole of it cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewstep.samplers.run.step import Post
from fewstep.samplers.table.tableau import Tableau


@dataclass(frozen=True)
class Info:
    """What a run did.

    nfe: network evaluations a sample (of drivers that differ by sample: the most, and `each` has them all). accepted,
    rejected: steps. status: "done", or the limit that ended it. seconds: wall clock. calls: network calls one after
    another, fewer than nfe where many times are evaluated at once. tableau: what was played, None for drivers.
    """

    nfe: int
    accepted: int
    rejected: int
    status: str
    seconds: float
    tableau: Tableau | None
    calls: int
    each: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Progress:
    """What callback and hook see after a step: .index, .t (time of the new state x), .x, .x0 (lazily), .nfe so far."""

    index: int
    t: float
    x: Tensor
    nfe: int
    predicted: Callable[[], Tensor]

    @property
    def x0(self) -> Tensor:
        """The clean sample that the network predicted in this step."""
        return self.predicted()


@dataclass(frozen=True)
class Look:
    """callback and hook of a run."""

    callback: Callable[[Progress], Any] | None
    hook: Callable[[Progress], Tensor | Post | None] | None

    def __bool__(self) -> bool:
        return bool(self.callback or self.hook)

    def wanted(self, index: int, t: float, x: Tensor, nfe: int, x0: Callable[[], Tensor]) -> Tensor | Post:
        """The state after callback and hook have seen it, or the function that the hook wants for all of it."""
        if not self:
            return x
        seen = Progress(index, t, x, nfe, x0)
        if self.callback:
            self.callback(seen)
        wanted = self.hook(seen) if self.hook else None
        if isinstance(wanted, Tensor) and wanted.shape != x.shape:
            raise ValueError(f"hook returned shape {tuple(wanted.shape)}; expected {tuple(x.shape)}")
        return x if wanted is None else wanted

    def tell(self, index: int, t: float, x: Tensor, nfe: int, x0: Callable[[], Tensor]) -> Tensor:
        """The state after callback and hook have seen it."""
        wanted = self.wanted(index, t, x, nfe, x0)
        if not isinstance(wanted, Tensor):
            raise ValueError("hook returned a function of all that a table carries; drivers take a new x only")
        return wanted
