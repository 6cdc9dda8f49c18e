"""What a method is given: the problem, its teacher, seeds to learn and to choose on, and where to say how it goes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from math import isclose, isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import checks
from fewstep.output.files import write_text
from fewstep.output.seal import sealed, unsealed
from fewstep.samplers.learned.problem.problem import Part, Problem
from fewstep.samplers.learned.problem.recipes import Recipe
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.problem.threads import surviving
from fewstep.samplers.learned.tasks.learner_entry import METHODS, as_told
from fewstep.samplers.learned.yardsticks.yardstick import LATENT, Yardstick
from fewstep.samplers.table.jsonfile import plain, plainly, read, understood
from fewstep.samplers.table.stored import from_content, to_content
from fewstep.samplers.table.tableau import Tableau

FIXED = "fixed recipes"  # the stage before all methods
SAME = 1e-3  # relative, of two scores of one table: machines differ in last bits, and these grow on the way


@dataclass(frozen=True, kw_only=True)
class Progress:
    """stage: method at work. step of steps. best: score of the best table so far; base: of what it began with.

    spent: network evaluations, samples times calls. seconds: since learning began. table: the best so far.
    """

    stage: str
    step: int
    steps: int
    best: float
    base: float
    spent: int
    seconds: float
    table: Tableau


def score(errors: Tensor) -> float:
    """What tables are chosen by: sqrt(rms x median) of the errors of the samples, from their mean squares (B,).

    The rms is owned by the few samples that switch mode, the median does not see them: neither alone is what one wants.
    """
    if not bool(torch.isfinite(errors).all()):
        return float("inf")
    return float((errors.mean().sqrt() * errors.median().sqrt()).sqrt())


@dataclass(eq=False)
class Task:
    """One table to be learned: for one number of evaluations, under one guidance.

    Attributes:
        problem, teacher: what is learned on. nfe: network evaluations. train, valid: seeds.
        seconds: what a method may take, None for no limit. tell: called with Progress. store: folder for the states of an
            interrupted run, or None. memo: what methods keep for other numbers of evaluations (same teacher and base).
        fixed: recipes without learning, best first. done: what was run, one entry a method.
        loss: what is descended by. judged: what tables are chosen and tested by.
        best, best_score: of everything offered so far. best_of: stage -> score and table of the best it has offered.
    """

    problem: Problem
    teacher: Teacher
    nfe: int
    train: tuple[int, ...]
    valid: tuple[int, ...]
    _: KW_ONLY
    seconds: float | None = None
    tell: Callable[[Progress], Any] | None = None
    store: Path | None = None
    memo: dict[Any, Any] = field(default_factory=dict)
    fixed: list[Recipe] = field(default_factory=list)
    done: list[dict[str, Any]] = field(default_factory=list)
    best: Tableau | None = None
    best_score: float = float("inf")
    base_score: float = float("inf")
    best_of: dict[str, tuple[float, Tableau]] = field(default_factory=dict)
    loss: Yardstick = LATENT
    judged: Yardstick = LATENT
    stage: str = ""
    began: float = field(default_factory=time.monotonic)

    def train_parts(self, size: int | None = None) -> list[Part]:
        """The training seeds in batches, whose reference runs are made in large ones."""
        self.teacher.prepare(self.problem.parts(self.train))
        return self.problem.parts(self.train, size)

    def some_parts(self, samples: int) -> list[Part]:
        """The first so many training seeds, in batches."""
        return self.problem.parts(self.train[: checks.whole("samples", samples, hint="It counts training samples")])

    def valid_parts(self) -> list[Part]:
        """The validation seeds in batches."""
        return self.problem.parts(self.valid)

    def errors(self, table: Tableau, parts: Iterable[Part], by: Yardstick | None = None) -> Tensor:
        """Error of each sample to the teacher, (n,) float64: mean squares, or what stands for them; by: `judged`."""
        name = _name(table)
        return torch.cat([self._errors(name, table, part, by or self.judged) for part in parts])

    def _errors(self, name: str, table: Tableau, part: Part, by: Yardstick) -> Tensor:
        """Of one part, each table once, by every yardstick at once."""
        if ("errors", by, name, part.seeds) not in self.memo:
            x0, truth = self.problem.draw(table, part), self.teacher.end(part)
            for each in {self.loss, self.judged, LATENT}:
                self.memo["errors", each, name, part.seeds] = each.judged(self.problem, part, x0, truth)
        found: Tensor = self.memo["errors", by, name, part.seeds]
        return found

    def judge(self, table: Tableau) -> float:
        """Score of a table on the validation seeds."""
        return score(self.errors(table, self.valid_parts()))

    def run(self, name: str, start: Tableau, **options: Any) -> Tableau:
        """The table that a method makes of `start`, judged and kept in the store; found there after an interruption."""
        self.stage, begun = name, len(self.done)
        place = self._place(name, start, options)
        if place is not None and place.exists():
            return self._kept(place)
        method = METHODS.find(name)
        if start.filters is not None and "filter" not in method.learns:
            raise ValueError(
                f"method {name!r} knows no filters, and would lose those that were learned: let 'filter' come last"
            )
        if start.cache is not None and "cache" not in method.learns:
            raise ValueError(
                f"method {name!r} knows no feature cache, and would lose the one that was learned: let 'l2p' come last"
            )
        table = surviving(partial(self._smaller, name), lambda: method.fn(self, start, **options))
        if not isinstance(table, Tableau) or table.nfe != start.nfe:
            got = f"one of {table.nfe}" if isinstance(table, Tableau) else type(table).__name__
            raise ValueError(
                f"method {name!r} must return a Tableau of {start.nfe} evaluations, `start` where none is better; got {got}"
            )
        self.stage = name
        self.done.append({"method": name, "options": as_told(options), "score": self.offer(table)})
        if place is not None:
            content = sealed(plainly({"table": to_content(table), "done": self.done[begun:]}))
            write_text(place, json.dumps(content))
        return table

    def _smaller(self, name: str) -> bool:
        """Half as many samples at once, and nothing kept of a stage that was made for more."""
        for key in [key for key in self.memo if isinstance(key, tuple) and key[0] == name]:
            del self.memo[key]
        return self.problem.halve()

    def _kept(self, place: Path) -> Tableau:
        """The table of a stage that was done, judged again: the score that was kept with it says whether it is this network."""
        remedy = "Delete it, and the stage is done again"
        with understood(place):
            kept = unsealed(read(place, "a kept stage"), place, remedy=remedy)
            table, done = from_content(kept["table"]), list(kept["done"])
            told = float(done[-1]["score"])
        self.done += done
        found = self.offer(table)
        if not isclose(found, told, rel_tol=SAME) and found != told:
            raise ValueError(
                f"{place} was learned on a network that behaves in another way: its table scored {told:.6g} then, and scores "
                f"{found:.6g} now. {remedy}"
            )
        return table

    def _place(self, name: str, start: Tableau, options: dict[str, Any]) -> Path | None:
        """File of a method's result in the store: named after everything that decides it, but for the seeds."""
        if self.store is None:
            return None
        version = METHODS.find(name).version
        decides = [name, as_told(options), to_content(start), *([version] if version else [])]
        decides += [] if self.loss is LATENT else [self.loss.content(), self.judged.content()]
        about = json.dumps(decides, sort_keys=True, default=plain)
        return self.store / f"{self.nfe:03d}-{name}-{hashlib.sha256(about.encode()).hexdigest()[:16]}.json"

    def offer(self, table: Tableau, step: int = 0, steps: int = 1) -> float:
        """Judge a table, keep it if it is the best so far, and tell how it goes."""
        found = self.judge(table)
        if self.stage != FIXED and found < self.best_of.get(self.stage, (float("inf"), table))[0]:
            self.best_of[self.stage] = found, table
        if found < self.best_score or self.best is None:
            self.best, self.best_score = table, found
        if not isfinite(self.base_score):
            self.base_score = found
        if self.tell is not None:
            self.tell(
                Progress(
                    stage=self.stage, step=step, steps=steps, best=self.best_score, base=self.base_score,
                    spent=self.problem.spent, seconds=time.monotonic() - self.began, table=self.best,
                )
            )  # fmt: skip
        return found


def _name(table: Tableau) -> str:
    """Hash of everything that decides what a table draws."""
    return hashlib.sha256(json.dumps(to_content(table), sort_keys=True, default=plain).encode()).hexdigest()


class TooFew(ValueError):
    """Fewer training samples than numbers to be fitted to them."""


def enough(count: int, seeds: Sequence[int], what: str) -> None:
    """TooFew where there are fewer training samples than numbers to be fitted to them."""
    if len(seeds) < count:
        raise TooFew(
            f"{what} fits {count} numbers, and there are {len(seeds)} training samples: give more, e.g. "
            f"seeds=range({8 * count}), or learn fewer (window=, free=)"
        )
