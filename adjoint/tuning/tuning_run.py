"""The descent: batches of seeds through the table, their gradients added up, a step, and a look at seeds it does not learn on.

    w <- w - lr(step) Adam(clip(sum of weight_i grad loss_i)),      m <- d m + (1 - d) w

The average m is what is looked at and kept. Everything that is drawn is drawn by step, so that a run that was interrupted
goes on to the same weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import cos, inf, isfinite, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.adjoint.tuning.certain_gain import Judge
from fewstep.adjoint.tuning.kept_descent import Kept
from fewstep.adjoint.tuning.losses.loss_entry import Term
from fewstep.adjoint.tuning.losses.loss_scene import Scene, Surroundings
from fewstep.adjoint.tuning.trained_weights import Average, Trained, Values
from fewstep.samplers.learned.problem.problem import Part
from fewstep.samplers.learned.tasks.learner_task import Progress

WARM = 10  # steps of a rising rate
LEAST = 0.05  # of the rate, at the end
LOST = 5  # steps one after another that are not finite


@dataclass(frozen=True, kw_only=True)
class Course:
    """steps, at most `seconds` of them. batch: samples of a pass; accumulate: passes of a step. lr, ema, clip: see `tune`.
    every: steps between looks. seed: of the order and of what losses draw. accelerator: of several processes, or None."""

    steps: int
    batch: int
    accumulate: int
    lr: float
    ema: float
    clip: float
    every: int
    seed: int
    seconds: float | None = None
    accelerator: Any = None

    def rate(self, step: int, spent: float) -> float:
        """lr, rising over the first steps, falling on a cosine to a twentieth, by steps or by time, whichever is further."""
        share = max(step / self.steps, spent / self.seconds if self.seconds else 0.0)
        return self.lr * min(1.0, (step + 1) / WARM) * (LEAST + (1 - LEAST) * 0.5 * (1 + cos(pi * min(share, 1.0))))


@dataclass(eq=False)
class Descent:
    """One run; `best` are the averaged weights that were best on the validation seeds, the untouched ones until others are."""

    trained: Trained
    around: Surroundings
    terms: Sequence[Term]
    judge: Judge
    course: Course
    train: Sequence[int]
    valid: Sequence[int]
    tell: Callable[[Progress], Any] | None
    kept: Kept | None
    step: int = 0
    best_score: float = inf
    base_score: float = inf
    best: Values = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    interrupted: bool = False
    began: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """All steps, or those up to the limit or an interruption."""
        self.optimizer = torch.optim.Adam(self.trained.params, lr=self.course.lr, betas=(0.9, 0.99))
        self.average, self.best = Average(self.trained.original, self.course.ema), list(self.trained.original)
        self.spent = 0.0
        if self.kept is None or not self.kept.found(self):
            self.base_score = self.best_score = self._score(self.trained.original)
        before, lost = self.spent, 0
        began = time.monotonic()
        try:
            while self.step < self.course.steps and not self._late():
                lost = 0 if self._one() else lost + 1
                if lost >= LOST:
                    raise ValueError(
                        f"the loss is not finite in {LOST} steps one after another, from step {self.step - LOST + 1} on: take "
                        f"a smaller `lr` than {self.course.lr:g}"
                    )
                self.spent = before + time.monotonic() - began
                if self.step % self.course.every == 0 or self.step == self.course.steps or self._late():
                    self._look()
        except KeyboardInterrupt:
            self.interrupted = True

    def _late(self) -> bool:
        return self.course.seconds is not None and self.spent >= self.course.seconds

    def _one(self) -> bool:
        """One step; False where its loss or gradient was not finite, and nothing was moved."""
        course, params = self.course, self.trained.params
        for group in self.optimizer.param_groups:
            group["lr"] = course.rate(self.step, self.spent)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for turn, part in enumerate(self._batches()):
            generator = torch.Generator().manual_seed(
                int(np.random.SeedSequence([course.seed, self.step, turn]).generate_state(1)[0])
            )
            scene = Scene(self.around, part, generator)
            with torch.enable_grad():
                loss = sum(term.weight * self._loss(term, scene) for term in self.terms) / course.accumulate
                assert isinstance(loss, Tensor)
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        self._shared(params)
        norm = torch.nn.utils.clip_grad_norm_(params, course.clip or inf)
        fine = isfinite(total) and bool(norm.isfinite())
        if fine:
            self.optimizer.step()
            self.average.add(params)
        self.losses.append(total)
        self.step += 1
        return fine

    def _loss(self, term: Term, scene: Scene) -> Tensor:
        found = term.entry.fn(scene, **term.options)
        if not isinstance(found, Tensor) or found.ndim or not found.requires_grad:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"loss {term.entry.name!r} must give one number with a graph to the weights; got {got}: leave no .detach() or "
                ".item() in it, and end it with .mean()"
            )
        return found

    def _batches(self) -> list[Part]:
        """The parts of this step and process: all parts in an order of their own in each epoch."""
        course, problem = self.course, self.around.problem
        parts = problem.parts(self.train, course.batch)
        many, mine = (
            (course.accelerator.num_processes, course.accelerator.process_index) if course.accelerator else (1, 0)
        )
        found = []
        for turn in range(course.accumulate):
            number = (self.step * course.accumulate + turn) * many + mine
            epoch, place = divmod(number, len(parts))
            found.append(parts[int(np.random.default_rng([course.seed, epoch]).permutation(len(parts))[place])])
        return found

    def _shared(self, params: Sequence[Tensor]) -> None:
        """Gradients averaged over the processes."""
        if self.course.accelerator is None or self.course.accelerator.num_processes == 1:
            return
        for p in params:
            grad = torch.zeros_like(p) if p.grad is None else p.grad
            p.grad = self.course.accelerator.reduce(grad, "mean")

    def _score(self, values: Values) -> float:
        """What decides, on the validation seeds."""
        with self.trained.being(values):
            found = float(self.judge.numbers(self.judge.drawn(self.valid)).mean())
        return found if isfinite(found) else inf

    def _look(self) -> None:
        """Judge the average, keep the best, tell, and write down where the run is."""
        values = [v.clone() for v in self.average.values]
        found = self._score(values)
        if found < self.best_score:
            self.best, self.best_score = values, found
        if self.kept is not None:
            self.kept.write(self)
        if self.tell is not None:
            self.tell(
                Progress(
                    stage="+".join(term.entry.name for term in self.terms), step=self.step, steps=self.course.steps,
                    best=self.best_score, base=self.base_score, spent=self.around.problem.spent,
                    seconds=time.monotonic() - self.began, table=self.around.table,
                )
            )  # fmt: skip
