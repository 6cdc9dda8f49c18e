"""Networks on which nothing can be learned, told as what they are before anything is spent on them.

A sample must be a function of its seed alone, the same whenever it is asked for and in whatever batch; and finite; and of x.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from fewstep.samplers.learned.problem.problem import Part, Problem
from fewstep.samplers.pipeline.source import same_answers
from fewstep.samplers.run.denoiser import PipelineDenoiser
from fewstep.samplers.validity.domain import networks_of

FEW = 4  # samples that are asked together, and the first and last of them alone


@torch.no_grad()
def require_sound(problem: Problem, seeds: Sequence[int]) -> None:
    """ValueError for a network that is not finite, random, of its batch, or blind to its input: about ten evaluations."""
    part = _together(problem, seeds)
    middle = 0.5 * (problem.t_start + problem.t_end)
    scale = float(problem.schedule.nodes(middle).S / problem.schedule.nodes(problem.t_start).S)
    asked = [(problem.t_start, part.x_T), (middle, part.x_T * scale)]
    answers = [_asked(problem, part, x, t) for t, x in asked]
    for (t, _), answer in zip(asked, answers, strict=True):
        if not torch.isfinite(answer).all():
            raise ValueError(
                f"the network answers with numbers that are not finite, {_bad(answer)} of {answer.numel()} at t = {t:.4g}: "
                f"nothing can be learned on it. In {part.x_T.dtype} it may overflow: load it in bfloat16 or float32"
            )
    dropout = _dropout(problem)  # told by itself: of few numbers two draws may drop the same
    if dropout or not same_answers(part.denoiser(asked[1][1], middle), answers[1]):
        raise ValueError(
            "the network answers otherwise when it is asked the same again, "
            + (dropout or "by noise or a state of its own")
            + ", so that no table is better than another: put it into .eval()"
        )
    for row in {0, len(part.seeds) - 1} if len(part.seeds) > 1 else ():
        _require_alone(problem, part, row, asked[1], answers[1])
    if len(part.seeds) > 1 and all(torch.equal(answer[:1].expand_as(answer), answer) for answer in answers):
        raise ValueError(
            "the network answers the same whatever state it is shown: it is a constant, on which every solver is as good as "
            "any other. Is it trained, and is its input passed on?"
        )


def _together(problem: Problem, seeds: Sequence[int]) -> Part:
    return problem.parts(list(seeds)[: min(FEW, problem.batch_size)])[0]


def _asked(problem: Problem, part: Part, x: Tensor, t: float) -> Tensor:
    """The answer for several samples; ValueError where the network is conditioned for another number of them."""
    try:
        return part.denoiser(x, t)
    except ValueError as error:
        if isinstance(problem.model, PipelineDenoiser):
            raise _of_its_batch(problem) from error
        raise


def _require_alone(problem: Problem, part: Part, row: int, asked: tuple[float, Tensor], answer: Tensor) -> None:
    """ValueError where a sample of a batch is answered otherwise than alone."""
    t, x = asked
    alone = part.denoiser if isinstance(problem.model, type(part.denoiser)) else None
    own = alone or problem.alone(part.seeds[row]).denoiser
    try:
        found = own(x[row : row + 1], t)
    except (ValueError, RuntimeError) as error:
        raise _of_its_batch(problem) from error
    if found.shape != answer[row : row + 1].shape or not same_answers(found, answer[row : row + 1]):
        raise _of_its_batch(problem)


def _of_its_batch(problem: Problem) -> ValueError:
    """What makes the answer for a sample depend on those beside it, and the way out."""
    if norms := [m for m in _parts(problem) if m.training and isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]:
        return ValueError(
            f"the network's answer for a sample depends on the others in its batch: {len(norms)} layers of batch norm are "
            "training. Put it into .eval()"
        )
    if isinstance(problem.model, PipelineDenoiser):
        return ValueError(
            "this Denoiser's condition depends on the batch that it is called with (several prompts, labels or images), so "
            "that a seed would draw from another one in another batch: give the pipeline and let conditions go by seed, "
            'learn(pipe, call={"prompt": [...]})'
        )
    return ValueError(
        "the network's answer for a sample depends on the others in its batch, or it takes no batch of one; what is learned "
        "must be a function of the sample: condition it the same for every row, or learn(pipe, call={...})"
    )


def _dropout(problem: Problem) -> str:
    active = [
        m for m in _parts(problem) if m.training and isinstance(m, torch.nn.modules.dropout._DropoutNd) and m.p > 0
    ]
    return f"by {len(active)} active layers of dropout" if active else ""


def _parts(problem: Problem) -> Iterable[Any]:
    own = getattr(problem.model, "fn", None)
    pipe = getattr(problem.source or own, "pipe", None)
    networks = list(networks_of(pipe).values()) if pipe is not None else [own] if isinstance(own, Module) else []
    return (part for network in networks for part in network.modules())


def _bad(answer: Tensor) -> int:
    return int((~torch.isfinite(answer)).sum())
