"""`tune`: a model's weights for one table, by exact gradients through it, and whether they are certainly better."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.tuning.asked_tuning import Asked, asked
from fewstep.adjoint.tuning.certain_gain import Judge, report
from fewstep.adjoint.tuning.kept_descent import Kept
from fewstep.adjoint.tuning.losses.loss_scene import Surroundings
from fewstep.adjoint.tuning.trained_weights import Trained, networks_to_train
from fewstep.adjoint.tuning.tuned_model import Tuned
from fewstep.adjoint.tuning.tuning_run import Descent
from fewstep.output.exclusive import exclusive
from fewstep.output.places import prove_folder
from fewstep.samplers.artefact.artefact import Artefact, Learned, prediction_name
from fewstep.samplers.learned.planning import short
from fewstep.samplers.learned.problem.problem import Part, Problem
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.progress import shown
from fewstep.samplers.learned.tasks.each_guidance import drawn_from
from fewstep.samplers.learned.tasks.learner_task import Progress
from fewstep.samplers.pipeline.eval_mode import in_eval_mode
from fewstep.samplers.table.jsonfile import plain
from fewstep.samplers.table.stored import to_content


def tune(
    model: Any,
    solver: Any = "ddim",
    nfe: int | None = None,
    loss: Any = "pairs",
    *,
    grid: Any = None,
    solver_options: Mapping[str, Any] | None = None,
    weights: str = "all",
    networks: Any = None,
    rank: int = 8,
    targets: Sequence[str] | None = None,
    data: Any = None,
    extractor: Any = None,
    reward: Callable[[Tensor], Tensor] | None = None,
    judge: str = "loss",
    shape: Sequence[int] | None = None,
    seeds: Sequence[int] = range(1024),
    guard_seeds: Sequence[int] = range(100_000, 100_512),
    guidance: float | None = None,
    teacher: Mapping[str, Any] | None = None,
    cache: Any = None,
    resume: str | Path | None = None,
    progress: bool | Callable[[Progress], Any] = True,
    steps: int = 300,
    batch: int = 32,
    accumulate: int = 1,
    lr: float | None = None,
    ema: float = 0.99,
    clip: float = 1.0,
    every: int = 25,
    seconds: float | None = None,
    seed: int = 0,
    method: str = "checkpoint",
    last: int | str | None = None,
    accelerator: Any = None,
    classes: Sequence[int] | None = None,
    prompt: str | Sequence[str] | None = None,
    call: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    device: Any = None,
    dtype: torch.dtype | str | None = None,
) -> Tuned:
    """Tune a network's weights to one table: what it draws with these few evaluations gets better, with others it need not.

        tuned = tune(pipe, "ddim", 4, loss="mmd", data="photos/", extractor="inception")
        tuned.apply(pipe);     pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, learned=tuned.artefact)

    Args:
        model: as of `learn`. solver, nfe, grid, solver_options: the table, as of `sample`; a learned one too.
        loss: what is lowered, a name in adjoint.LOSSES, a sum "pairs+error", {name: weight}, or [(name, {"weight": 0.1}), ...]
            with options of each.
        weights: "all" of the network that is stepped, "lora" (low-rank parts of `rank` at the layers whose names have a word of
            `targets`), or "trainable", those that require a gradient. networks: the Module that a Denoiser's function calls,
            or names of a pipeline's components.
        data: for "mmd" and FD: what `fewstep.eval` reads, floats (N, *shape) as samples are, or "teacher", the ends of its
            runs. extractor: by name, or a function of images, differentiable; None: their numbers. reward: images -> (B,).
        judge: "loss", what the first loss measures decides, or "error", to the teacher.
        shape, guidance, teacher, cache, classes, prompt, call, batch_size, device, dtype: as of `learn`.
        seeds: learned on, seven eighths, and looked at on the way, the rest. guard_seeds: untouched ones, which decide.
        steps: of Adam, at most `seconds` of them. batch: samples of a pass, `accumulate` passes a step. lr: of its peak; None:
            1e-4, of low-rank parts 1e-3. ema: decay of the average that is kept. clip: largest norm of a gradient, 0: any.
            every: steps between looks. seed: of everything that is drawn.
        method, last: of the gradient, see `adjoint.sample`; last: through the last rows only. accelerator: of `accelerate`:
            each process takes batches of its own.
        resume: folder in which an interrupted run is found again. progress: a bar, or a callable that gets Progress.

    Returns:
        Tuned, with status "tuned", or "no-gain" where the weights are not certainly better on untouched seeds. The model itself
        is as it was: tuned.apply(model) changes it.

    Raises:
        ValueError: unknown names and options, seeds used twice, a loss that needs data or a reward without it, a solver without
            a table, a model whose weights are not known.
    """
    want = asked(
        loss, weights=weights, judge=judge, data=data, reward=reward, seeds=seeds, guard_seeds=guard_seeds, method=method,
        accelerator=accelerator, course={
            "steps": steps, "batch": batch, "accumulate": accumulate, "lr": lr, "ema": ema, "clip": clip, "every": every,
            "seconds": seconds, "seed": seed, "accelerator": accelerator,
        },
    )  # fmt: skip
    if resume is not None:
        prove_folder(resume, "`resume`")
    device = device if accelerator is None else device or accelerator.device
    how = {
        "shape": shape,
        "classes": classes,
        "prompt": prompt,
        "call": call,
        "batch_size": batch_size,
        "device": device,
    }
    with drawn_from(model), shown(progress) as tell, ExitStack() as open_things:
        problem = Problem(model, guidance=guidance, dtype=dtype, **how)
        table = want.table(problem, solver, nfe, grid, solver_options or {})
        found = networks_to_train(problem.source.pipe if problem.source is not None else model, networks)
        open_things.enter_context(
            in_eval_mode(*found.values(), *([] if problem.source is None else [problem.source.pipe]))
        )
        work = Work(want, problem, table, Teacher(problem, cache=cache, paths=(), **(teacher or {})))
        work.look_at(data, extractor, device)
        trained = Trained(found, weights, rank, targets, seed)
        open_things.callback(trained.end)
        kept = None
        if resume is not None:
            first = accelerator is None or accelerator.is_main_process
            if first:
                open_things.enter_context(exclusive(Path(resume), "the resume folder"))
            kept = Kept(Path(resume), work.name(rank, targets, last), first)
        return work.done(trained, kept, tell, reward, last)


class Work:
    """One tuning, from the references to the report."""

    def __init__(self, want: Asked, problem: Problem, table: Any, teacher: Teacher) -> None:
        self.want, self.problem, self.table, self.teacher = want, problem, table, teacher
        self.data: Tensor | None = None

    def look_at(self, data: Any, extractor: Any, device: Any) -> None:
        """Everything that the untouched network is asked for: reference runs of all seeds, features of data."""
        want, problem = self.want, self.problem
        _ = problem.weights, problem.behaviour, problem.fingerprint
        from_teacher = isinstance(data, str) and data == "teacher"
        if want.needs("teacher") or from_teacher:
            self.teacher.prepare(problem.parts(want.train))
        for seeds in (want.valid, want.guard):
            self.teacher.prepare(problem.parts(seeds))
        self.eyes, self.data = want.eyes(extractor, device), None
        if data is not None:
            own = [self.teacher.end(part) for part in problem.parts(want.train)] if from_teacher else None
            self.data = want.features(data, own, self.eyes, problem)

    def end(self, part: Part) -> Tensor:
        """Where the long run of a part ended; all were made before anything was trained."""
        return self.teacher.end(part)

    def name(self, *more: Any) -> str:
        """Hash of everything that decides the weights."""
        p, data = (
            self.problem,
            None if self.data is None else hashlib.sha256(self.data.cpu().numpy().tobytes()).hexdigest(),
        )
        about = [self.want.content(), self.teacher.key, p.weights, p.condition, to_content(self.table), data, more]
        return hashlib.sha256(json.dumps(about, sort_keys=True, default=_plain).encode()).hexdigest()[:16]

    def done(self, trained: Trained, kept: Kept | None, tell: Any, reward: Any, last: Any) -> Tuned:
        """Train, and test on untouched seeds."""
        want, problem = self.want, self.problem
        judge = Judge(problem, self.table, self.end, self.eyes, self.data, reward, want.terms[0], want.judge)
        floor = self.teacher.self_error(want.valid)
        before = judge.drawn(want.guard)
        around = Surroundings(
            problem, self.table, trained.params, self.end, self.eyes, self.data, reward,
            lambda: trained.being(trained.original), want.method, last, {},
        )  # fmt: skip
        trained.begin()
        run = Descent(trained, around, want.terms, judge, want.course, want.train, want.valid, tell, kept)
        run.run()
        with trained.being(run.best):
            after = judge.drawn(want.guard)
        told = report(judge, before, after, floor)
        sure = told.pop("sure")
        told |= {"teacher_error": floor, "steps": run.step, "losses": run.losses[:: max(1, len(run.losses) // 100)]}
        told |= {"validation": {"first": run.base_score, "best": run.best_score}, "interrupted": run.interrupted}
        return self._tuned(trained, run.best, told, sure)

    def _tuned(self, trained: Trained, best: list[Tensor], told: dict[str, Any], sure: bool) -> Tuned:
        problem, want = self.problem, self.want
        domain = problem.domain
        domain.pop("weights", None)  # which are those of before
        guidance = problem.guidance
        learned = Learned(self.table, guidance, {}, "learned", {})
        facts = {"name": problem.name, "prediction": prediction_name(problem.prediction), "shape": list(problem.shape)}
        made = {
            **want.content(),
            "weights": trained.kind,
            "teacher": {"solver": self.teacher.solver, "nfe": self.teacher.nfe},
        }
        made |= {"rank": trained.rank} if trained.kind == "lora" else {}
        made["seeds"] = {name: short(getattr(want, name)) for name in ("train", "valid", "guard")}
        artefact = Artefact((learned,), {**facts, "fingerprint": problem.fingerprint, "domain": domain}, made)
        named = {k: v.clone() for k, v in trained.named(best).items()}
        return Tuned(artefact, trained.kind, named, tuple(trained.networks), "tuned" if sure else "no-gain", told, made)


def _plain(value: Any) -> Any:
    try:
        return plain(value)
    except ValueError:
        return repr(value)
