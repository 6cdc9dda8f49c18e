"""`learn`: from a model, a solver and a number of evaluations to a table that is certainly better, or to none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewstep.output.exclusive import exclusive
from fewstep.samplers.artefact.artefact import Artefact, Learned, prediction_name
from fewstep.samplers.artefact.corrections import corrections
from fewstep.samplers.learned.lattice import Lattice
from fewstep.samplers.learned.learning_run import Run, _drawn, keep_answers, proved, stage_folder
from fewstep.samplers.learned.planning import planned
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.progress import shown
from fewstep.samplers.learned.tasks.each_guidance import drawn_from, under_each
from fewstep.samplers.learned.tasks.learner_task import Progress
from fewstep.samplers.learned.tasks.measuring import room
from fewstep.samplers.learned.tasks.soundness import require_sound
from fewstep.samplers.learned.worth.surface import tested_between
from fewstep.samplers.learned.worth.transfer import checked_transfer, measured_elsewhere
from fewstep.samplers.learned.yardsticks.yardstick import require_fit
from fewstep.samplers.table.tableau import Tableau


def learn(
    model: Any,
    solver: str = "auto",
    nfe: int | Sequence[int] = 5,
    method: str | Sequence[Any] = "auto",
    *,
    shape: Sequence[int] | None = None,
    seeds: Sequence[int] = range(192),
    guard_seeds: Sequence[int] = range(1000, 2024),
    guidance: float | Sequence[float] | None = None,
    solver_options: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
    cache: Any = None,
    resume: str | Path | None = None,
    progress: bool | Callable[[Progress], Any] = True,
    seconds: float | None = None,
    rivals: bool = True,
    classes: Sequence[int] | None = None,
    prompt: str | Sequence[str] | None = None,
    call: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    device: Any = None,
    dtype: torch.dtype | str | None = None,
    transfer: bool | Mapping[str, Mapping[str, Any]] = False,
    loss: str | Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    judge: str = "loss",
    budget: int | str | None = None,
    memory: int | str | None = None,
    **spec: Any,
) -> Artefact:
    """Learn where to step, with which weights and network times, for one model, solver and number of evaluations.

    The network's weights stay as they are; what is learned are some tens of numbers, in seconds to minutes.

    Args:
        model: Denoiser, diffusers pipeline, "demo", or a folder or hub id of a pipeline; or {guidance: Denoiser}.
        solver: what is corrected; "auto": the best of all. nfe: network evaluations, or several. method: "auto", a name
            in METHODS, or a list of names and (name, options), each stage from the best table so far.
        shape: of one sample, for a Denoiser. seeds: of the samples learned on, three quarters, and chosen on, the rest.
        guard_seeds: untouched ones, which decide whether the result is better: the first 128, and twice as many while that
            is open. guidance: scale, or several: a table each.
        solver_options: fixed options of the solver; others (order, lower_order_final, corrector) are tried.
        teacher: {"solver": "dpmpp_3m", "nfe": n, ...}, the reference; n is 60, or 6 times the largest `nfe` where that is more,
            unless told; 200 where the solver draws noise. cache: folder of reference runs; None: the user's, False: none.
            resume: folder in which an interrupted run is found again. progress: a bar, or a callable that gets Progress.
            seconds: limit of each gradient stage; without it the result depends on nothing but what is given here.
        rivals: whether the best fixed recipe, which must be beaten, is sought among all solvers on all grids, and not only
            among those of `solver`; where the solver draws noise it is its own alone.
        call: arguments of the pipeline's own call: a list is taken in turn, by seed, anything else is for all; classes and
            prompt are short forms. Without words a text model draws from 64 prompts that come with the library.
        batch_size, device: of the samples. dtype: what a network that is loaded here computes in, or x_T of a Denoiser;
            None: float32, and as it is for a pipeline. transfer: True measures what the tables are worth with other seeds,
            guidance, words and adapters, into their reports; {name: changes of the call} measures there.
        loss: what is lowered in the place of the mean square error: "pixels", "lpips", "features" or "features:EXTRACTOR",
            of decoded images, or f(x0, reference) -> (B,), differentiable, zero where both are one. judge: "loss", what
            chooses and tests is this too, or "latent".
        budget: network evaluations that all of it may take, samples times calls, the reference included, or a time such as
            "30min" in which they are made: seeds, stages and reference are then chosen for it (of `seeds` and `guard_seeds`
            the first); `transfer` is not in it. memory: such as "24GB": samples at once so that it suffices.
        spec: options of a single `method`, its own `loss` ("log") too.

    Returns:
        Artefact with one table for each (nfe, guidance): .save(path), .report. A table that is not certainly better than
        the best fixed recipe is that recipe, with status "no-gain", and what was learned stays beside it as `refused`.

    Raises:
        ValueError: unknown names or options, seeds used twice, a teacher that is not converged; a `cache` or `resume` that
            cannot be written, or that another run is at work in; a budget that is too small for any stage.
    """
    how: dict[str, Any] = {"shape": shape, "classes": classes, "prompt": prompt, "call": call}
    how |= {"batch_size": batch_size, "device": device, "dtype": dtype}
    there = room(model, budget, memory, guidance=guidance, nfe=nfe, **how)
    plan = planned(
        model, solver=solver, nfe=nfe, method=method, seeds=seeds, guard_seeds=guard_seeds, guidance=guidance,
        solver_options=solver_options, teacher=teacher, seconds=seconds,
        rivals=rivals, loss=loss, judge=judge, spec=spec, budget=there.budget, remember=there.remember,
    )  # fmt: skip
    places = checked_transfer(transfer)
    learned: list[Learned] = []
    facts: dict[str, Any] = {}
    drawn: dict[str, Any] = {}
    lattice = Lattice.asked(plan)
    proved(cache, resume)
    with drawn_from(model), shown(progress) as tell, ExitStack() as locks:
        for problem in under_each(model, plan.guidances, **how):
            problem.most = there.most
            if (folder := stage_folder(resume, plan, problem)) is not None:
                locks.enter_context(exclusive(folder, "the resume folder"))
                keep_answers(folder, problem)
            run = Run(plan, problem, Teacher(problem, cache=cache, paths=plan.paths, **plan.teacher), tell, folder)
            require_fit(plan.loss, problem, plan.train)
            require_sound(problem, plan.train)
            for n in plan.nfes:
                if not any(stage.get("interrupted") for one in learned for stage in one.stages):
                    learned = _with(learned, run.table(n))
            if lattice is not None:
                lattice.learn(problem, run.teacher, run.memo)
            if places:
                own = {"solver": plan.solver, "options": plan.options}
                learned = measured_elsewhere(learned, problem, places, plan.teacher, **own)
            facts = {
                "name": problem.name, "prediction": prediction_name(problem.prediction), "shape": list(problem.shape),
                "fingerprint": problem.fingerprint, "domain": problem.domain,
            }  # fmt: skip
            drawn = _drawn(problem)
        learned = _alike(learned)
        if len(plan.guidances) > 1 and not isinstance(model, Mapping):
            facts["between"] = tested_between(learned, problem, plan.valid, plan.teacher, cache)
    if lattice is not None:
        facts["cascade"] = lattice.told()
    if plan.guidances != (None,):
        drawn["guidance"] = list(plan.guidances)
        facts["domain"].setdefault("guidance", {})["guidance_scale"] = list(plan.guidances)
    return Artefact(tuple(learned), facts, {**plan.content(), "samples": drawn})


def _with(tables: Sequence[Learned], new: Learned) -> list[Learned]:
    """One table for each place: what costs less than was asked for may have no gain, and its recipe be of fewer evaluations."""
    twin = next((one for one in tables if one.place == new.place), None)
    if twin is None or new.status == "learned":
        return [*(one for one in tables if one is not twin), new]
    return list(tables)


def _alike(tables: Sequence[Learned]) -> list[Learned]:
    """Tables of one nfe relative to one solver, where they can be, so that guidances between theirs can be played."""
    first: dict[int, Tableau] = {}
    found = []
    for one in tables:
        like = first.setdefault(one.nfe, one.tableau)
        moved = replace(one.tableau, name=like.name, options=like.options, order=like.order)
        try:
            corrections(moved)
        except ValueError:
            moved = one.tableau
        found.append(replace(one, tableau=moved, base={"grid": one.base["grid"]}))
    return found
