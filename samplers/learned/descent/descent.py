"""The descent that all gradient methods share: play a batch, compare with the teacher, turn the knobs.

    knobs <- optimizer(knobs, d/dknobs loss),    loss over e_b = error of sample b to its reference, by the task's loss

Weights of the network never get gradients. Batches are a function of the step alone, the start is among the candidates, the
best on the validation seeds is kept, and a run that was ended goes on from its last judgement to the same last bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property, partial
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fewstep.samplers.learned.descent import kept_state
from fewstep.samplers.learned.descent.kept_state import Values
from fewstep.samplers.learned.descent.moving_noise import MovingNoise
from fewstep.samplers.learned.descent.objectives import DECAYS, LOSSES, OPTIMIZERS, DescentOptions
from fewstep.samplers.learned.playing.differentiable import play, play_beside
from fewstep.samplers.learned.problem.problem import Part
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.problem.threads import surviving
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.run.free_row import Coefficients
from fewstep.samplers.table.tableau import Tableau


class Turnable(Protocol):
    """What descends: named float64 parameters, all zero at the start, and the table they make."""

    parameters: Values

    @property
    def start(self) -> Tableau:
        """A table whose registers are those that `coefficients` fill."""

    @property
    def count(self) -> int:
        """Numbers that can be turned freely."""

    def coefficients(self) -> Coefficients:
        """What `play` needs, with a graph back to the parameters."""

    def table(self) -> Tableau:
        """The table with the parameters where they are."""


# loss of a batch that looks at more than the ends: f(states of `play`, part, teacher, knobs)
Objective = Callable[[list[Tensor], Part, Teacher, Any], Tensor]
Player = Callable[..., list[Tensor]]


def descend(
    task: Task,
    knobs: Turnable,
    recipe: DescentOptions,
    *,
    tag: str = "descent",
    objective: Objective | None = None,
    cut: bool = False,
    until: float | None = None,
    player: Player | None = None,
) -> Tableau:
    """The best table found on the way down, judged on the validation seeds; the start if nothing is better.

    Args:
        task: what is learned on; `task.store` keeps the state of every judgement. knobs: what is turned. recipe: how.
        tag: name of the stage in the store. objective: in place of the recipe's loss. cut: gradients through one network
            call only. until: time.monotonic() at which to stop; a run that is stopped so depends on the machine's speed,
            which is why `recipe.steps` is the limit to use. player: makes the states, called as `play` is, in its place.
    """
    run = _Descent(task, knobs, recipe, tag=tag, objective=objective, cut=cut, until=until, player=player)
    return run.run()


class _Descent:
    """The state of a descent: step, parameters, optimizer, best so far, size of the rate, moved x_T."""

    def __init__(
        self,
        task: Task,
        knobs: Turnable,
        recipe: DescentOptions,
        *,
        tag: str = "descent",
        objective: Objective | None = None,
        cut: bool = False,
        until: float | None = None,
        player: Player | None = None,
    ) -> None:
        self.task, self.knobs, self.recipe, self.tag = task, knobs, recipe, tag
        self.objective, self.cut, self.until = objective, cut, until
        self.player = player or partial(play_beside, task.problem)
        self.parts, self.teacher = task.train_parts(recipe.batch), task.teacher
        self.step, self.waited, self.size, self.score = 0, 0, 1.0, float("inf")
        self.noise = MovingNoise(recipe.ball, recipe.ball_lr)
        self.best, self._order = self._values(), (-1, [0])
        self.optimizer = self._fresh()

    def run(self) -> Tableau:
        """All steps, or those that there is time for."""
        self._judge()
        self._load()
        while self.step < self.recipe.steps and self.size > 1e-9:
            self._advance()
            self.step += 1
            late = self.until is not None and time.monotonic() > self.until
            if self.step % self.recipe.every == 0 or self.step == self.recipe.steps or late:
                self._judge()
                self._save()
            if late:
                break
        self._turn(self.best)
        return self.knobs.table()

    def _judge(self) -> None:
        """Score the knobs on the validation seeds; keep them if they are the best, go back if that was long ago."""
        try:
            found = self.task.offer(self.knobs.table(), self.step, self.recipe.steps)
        except ValueError:  # a table with numbers that are not finite
            found = float("inf")
        if found < self.score:
            self.score, self.best, self.waited = found, self._values(), 0
            return
        self.waited += 1
        if self.waited >= self.recipe.patience or not isfinite(found):
            self._back()

    def _back(self) -> None:
        """Take up the best again, with smaller steps."""
        self._turn(self.best)
        self.size, self.waited, self.optimizer = self.size * self.recipe.shrink, 0, self._fresh()

    def _advance(self) -> None:
        """One batch: its gradient, a step of the knobs, and one of its x_T where they may move."""
        part = self._part()
        x = self.noise.start(part)
        names = list(self.knobs.parameters)
        wanted = [*self.knobs.parameters.values(), *([x] if x.requires_grad else [])]
        problem = self.task.problem
        problem.afford(len(part.seeds) * self.knobs.start.nfe * (1 if self.recipe.remember and not problem.most else 2))
        loss, found = surviving(problem.halve, partial(self._slopes, part, x, wanted))
        gradients = [torch.zeros_like(v) if g is None else g for g, v in zip(found, wanted, strict=True)]
        if not all(bool(torch.isfinite(v).all()) for v in (loss, *gradients)):
            self._back()
            return
        self._descend(dict(zip(names, gradients, strict=False)))
        if x.requires_grad:
            self.noise.step(part, gradients[-1], partial(self._played, part))

    def _slopes(self, part: Part, x: Tensor, wanted: list[Tensor]) -> tuple[Tensor, Any]:
        """Loss of a batch, and its gradients; what they cost is booked. Where memory has run out nothing is remembered."""
        problem = self.task.problem
        problem.pieces(part)
        before = problem.asked(part)
        remember = self.recipe.remember and (problem.most or len(part.seeds)) >= len(part.seeds)
        states = self.player(part, self._layout(), self.knobs.coefficients(), x, remember=remember, cut=self.cut)
        loss = self._loss(states, part)
        found = torch.autograd.grad(loss, wanted, allow_unused=True) if loss.requires_grad else [None] * len(wanted)
        problem.spent += round(problem.asked(part) - before)
        return loss.detach(), found

    @torch.no_grad()
    def _played(self, part: Part, x: Tensor) -> Tensor:
        """(B,) errors of a batch from x_T = x."""
        self.task.problem.spent += len(part.seeds) * self.knobs.start.nfe
        return self._errors(play(part, self._layout(), self.knobs.coefficients(), x)[-1], part)

    def _layout(self) -> Tableau:
        """Registers and noises: increments of a Brownian path belong to a grid, and are held fixed in the derivative."""
        return self.knobs.table() if self.knobs.start.stochastic else self.knobs.start

    def _descend(self, gradients: Values) -> None:
        """A step of the optimizer."""
        faded = self.size * DECAYS[self.recipe.decay](self.step / self.recipe.steps)
        for name, group in zip(self.knobs.parameters, self.optimizer.param_groups, strict=True):
            group["lr"] = self.recipe.rate(name) * faded
        for name, parameter in self.knobs.parameters.items():
            parameter.grad = gradients[name]
        torch.nn.utils.clip_grad_norm_(self.knobs.parameters.values(), self.recipe.clip)
        self.optimizer.step()

    def _loss(self, states: list[Tensor], part: Part) -> Tensor:
        if self.objective is not None:
            return self.objective(states, part, self.teacher, self.knobs)
        if callable(self.recipe.loss):
            return self.recipe.loss(states[-1], self.teacher.end(part)).mean()
        return LOSSES[self.recipe.loss](self._errors(states[-1], part))

    def _errors(self, x0: Tensor, part: Part) -> Tensor:
        """(B,) errors to the reference by the task's loss, float64."""
        return self.task.loss.of(self.task.problem, part, x0, self.teacher.end(part))

    def _part(self) -> Part:
        """The batch of this step: every epoch goes through all, in an order of its own."""
        epoch, at = divmod(self.step, len(self.parts))
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(1_000_003 * self.recipe.seed + epoch)
            self._order = epoch, torch.randperm(len(self.parts), generator=generator).tolist()
        return self.parts[self._order[1][at]]

    def _fresh(self) -> torch.optim.Optimizer:
        """An optimizer that remembers nothing, a group for every kind of knob."""
        groups = [{"params": [p], "lr": self.recipe.rate(name)} for name, p in self.knobs.parameters.items()]
        return OPTIMIZERS[self.recipe.optimizer](groups, self.recipe.momentum)

    def _values(self) -> Values:
        return {name: value.detach().clone() for name, value in self.knobs.parameters.items()}

    @torch.no_grad()
    def _turn(self, values: Values) -> None:
        for name, value in values.items():
            self.knobs.parameters[name].copy_(value)

    @cached_property
    def _file(self) -> Path | None:
        if getattr(self.objective, "grows", False):
            return None
        recipe = {name: getattr(value, "__name__", value) for name, value in vars(self.recipe).items()}
        return kept_state.place(self.task, self.knobs.start, self.tag, recipe, sorted(self.knobs.parameters))

    def _save(self) -> None:
        """The whole state, exactly."""
        if self._file is not None:
            values = {"best": self.best, "now": self._values(), "move": self.noise.moves}
            numbers = {"step": self.step, "waited": self.waited, "size": self.size, "score": self.score}
            kept_state.save(self._file, values, numbers, self.optimizer)

    def _load(self) -> None:
        """Go on from the last state that was kept, if there is one."""
        if self._file is None or not self._file.exists():
            return
        values, numbers = kept_state.load(self._file, self.optimizer)
        self.best = values["best"]
        self.noise.moves = {seed: move.to(self.parts[0].x_T) for seed, move in values.get("move", {}).items()}
        self.step, self.waited, self.size, self.score = (numbers[n] for n in ("step", "waited", "size", "score"))
        self._turn(self.best)
        self.task.offer(self.knobs.table(), self.step, self.recipe.steps)
        self._turn(values["now"])
