"""The descent that all gradient methods share: play a batch, compare with the teacher, turn the knobs.

    knobs <- optimizer(knobs, d/dknobs loss),    loss over e_b = mean square difference of sample b to its reference

Weights of the network never get gradients. Batches are a function of the step alone, the start is among the candidates, the
best on the validation seeds is kept, and a run that was ended goes on from its last judgement to the same last bit.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from math import isfinite
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fewstep.output.files import whole
from fewstep.samplers.learned.descent.objectives import DECAYS, FAINT, LOSSES, OPTIMIZERS, Recipe
from fewstep.samplers.learned.playing.differentiable import play, play_beside
from fewstep.samplers.learned.problem.problem import Part
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.run.free_row import Coefficients
from fewstep.samplers.table.tableau import Tableau

Values = dict[str, Tensor]


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
    recipe: Recipe,
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
    return _Descent(task, knobs, recipe, tag, objective, cut, until, player).run()


class _Descent:
    """The state of a descent: step, parameters, optimizer, best so far, size of the rate, moved x_T."""

    def __init__(
        self,
        task: Task,
        knobs: Turnable,
        recipe: Recipe,
        tag: str,
        objective: Objective | None,
        cut: bool,
        until: float | None,
        player: Player | None = None,
    ):
        self.task, self.knobs, self.recipe, self.tag = task, knobs, recipe, tag
        self.objective, self.cut, self.until = objective, cut, until
        self.player = player or partial(play_beside, task.problem)
        self.parts, self.teacher = task.train_parts(recipe.batch), task.teacher
        self.step, self.waited, self.size, self.score = 0, 0, 1.0, float("inf")
        self.best, self.moves, self._order = self._values(), Values(), (-1, [0])
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
        x = self._moved(part)
        names = list(self.knobs.parameters)
        wanted = [*self.knobs.parameters.values(), *([x] if x.requires_grad else [])]
        problem = self.task.problem
        before = problem.asked(part)
        how: dict[str, Any] = {"remember": self.recipe.remember, "cut": self.cut}
        states = self.player(part, self._layout(), self.knobs.coefficients(), x, **how)
        loss = self._loss(states, part)
        found = torch.autograd.grad(loss, wanted, allow_unused=True) if loss.requires_grad else [None] * len(wanted)
        problem.spent += problem.asked(part) - before
        gradients = [torch.zeros_like(v) if g is None else g for g, v in zip(found, wanted, strict=True)]
        if not all(bool(torch.isfinite(v).all()) for v in (loss, *gradients)):
            self._back()
            return
        self._descend(dict(zip(names, gradients, strict=False)))
        if x.requires_grad:
            self._move(part, gradients[-1], states[-1])

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
        """(B,) mean square differences to the reference, float64."""
        return (x0 - self.teacher.end(part)).double().flatten(1).square().mean(1)

    def _part(self) -> Part:
        """The batch of this step: every epoch goes through all, in an order of its own."""
        epoch, at = divmod(self.step, len(self.parts))
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(1_000_003 * self.recipe.seed + epoch)
            self._order = epoch, torch.randperm(len(self.parts), generator=generator).tolist()
        return self.parts[self._order[1][at]]

    def _moved(self, part: Part) -> Tensor:
        """x_T of a batch, displaced within the ball where there is one."""
        if not self.recipe.ball:
            return part.x_T
        still = torch.zeros_like(part.x_T[0])
        return (part.x_T + torch.stack([self.moves.get(str(seed), still) for seed in part.seeds])).requires_grad_()

    @torch.no_grad()
    def _move(self, part: Part, gradient: Tensor, x0: Tensor) -> None:
        """One step of each x_T in its ball, kept only where the error of its sample falls."""
        old = self._moved(part) - part.x_T
        new = (old - self.recipe.ball_lr * len(part.seeds) * gradient).flatten(1)
        norm = new.norm(dim=1, keepdim=True).clamp_min(FAINT)
        new = (new * (self.recipe.ball / norm).clamp_max(1.0)).view_as(old)
        layout, coefficients = self._layout(), self.knobs.coefficients()
        errors = [self._errors(play(part, layout, coefficients, part.x_T + d)[-1], part) for d in (old, new)]
        self.task.problem.spent += 2 * len(part.seeds) * self.knobs.start.nfe
        for i, seed in enumerate(part.seeds):
            if errors[1][i] < errors[0][i]:
                self.moves[str(seed)] = new[i].clone()

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
    def _file(self) -> Any:
        """Where the state is kept; its name says all that the descent depends on."""
        t, start = self.task, self.knobs.start
        if t.store is None:
            return None
        plain = {k: getattr(v, "__name__", v) for k, v in vars(self.recipe).items()}
        about = (self.tag, plain, t.train, t.valid, t.teacher.key, sorted(self.knobs.parameters), start.name, t.stage)
        found = hashlib.sha256(repr(about).encode())
        for array in (start.W, start.times, start.model_times):
            found.update(array.tobytes())
        return t.store / f"{self.tag}-{found.hexdigest()[:24]}.safetensors"

    def _save(self) -> None:
        """The whole state, exactly."""
        if self._file is None:
            return
        state = self.optimizer.state_dict()
        tensors = {f"best.{k}": v for k, v in self.best.items()} | {f"now.{k}": v for k, v in self._values().items()}
        tensors |= {f"move.{k}": v for k, v in self.moves.items()}
        tensors |= {
            f"optimizer.{i}.{k}": v for i, own in state["state"].items() for k, v in own.items() if v is not None
        }
        numbers = {"step": self.step, "waited": self.waited, "size": self.size, "score": self.score}
        about = {"numbers": json.dumps(numbers), "groups": json.dumps(state["param_groups"])}
        with whole(self._file) as temporary:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, about)

    def _load(self) -> None:
        """Go on from the last state that was kept, if there is one."""
        if self._file is None or not self._file.exists():
            return
        with safe_open(self._file, framework="pt") as stored:
            kept: dict[str, Tensor] = {name: stored.get_tensor(name) for name in stored.keys()}
            about = stored.metadata()
        self.best, now, self.moves = (_named(kept, name) for name in ("best", "now", "move"))
        self.moves = {seed: move.to(self.parts[0].x_T) for seed, move in self.moves.items()}
        state: dict[int, Any] = {}
        for name, value in _named(kept, "optimizer").items():
            i, key = name.split(".", 1)
            state.setdefault(int(i), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": json.loads(about["groups"])})
        for name, number in json.loads(about["numbers"]).items():
            setattr(self, name, number)
        self._turn(self.best)
        self.task.offer(self.knobs.table(), self.step, self.recipe.steps)
        self._turn(now)


def _named(tensors: Mapping[str, Tensor], first: str) -> Values:
    """Those whose names begin with a word and a dot, without it."""
    items: Iterable[tuple[str, Tensor]] = tensors.items()
    return {name.removeprefix(f"{first}."): value for name, value in items if name.startswith(f"{first}.")}
