"""`adjoint.sample`: `sample` whose result has a gradient, at the memory of one network call."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from fewstep.adjoint.continuous.continuous_adjoint import OPTIONS, check_options
from fewstep.adjoint.exact.repeatable_noise import Given, draws_of, repeatable
from fewstep.adjoint.gradient.free_table import Free
from fewstep.adjoint.gradient.table_run import TableRun, Ways
from fewstep.adjoint.gradient.transforms import refuse_transforms
from fewstep.checks import unknown
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.choosing import Named, chosen
from fewstep.samplers.noise.draws import Noise
from fewstep.samplers.noise.sources import check_kind
from fewstep.samplers.run.checks import mean_for, require_finite, validate, validate_noise, validate_place
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.step import Post
from fewstep.samplers.sampling.asked_table import learned_table, table_for
from fewstep.samplers.sampling.loop import sample as plain_sample

METHODS = ("checkpoint", "direct", "revolve", "segments", "reversible", "adjoint_dpm", "adjoint_deis")


def sample(
    denoiser: Denoiser,
    x_T: Tensor,
    solver: Any = "dpmpp_2m",
    nfe: int | None = None,
    grid: Any = None,
    *,
    method: str = "checkpoint",
    params: Collection[Tensor] | None = None,
    cond: Tensor | Sequence[Tensor] = (),
    z: Tensor | None = None,
    slots: int | None = None,
    offload: bool = False,
    last: int | str | None = None,
    accumulate: bool = False,
    method_options: Mapping[str, Any] | None = None,
    guidance: float | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
    generator: Any = None,
    noise_seeds: Sequence[int] | None = None,
    noise: str = "independent",
    mu: Tensor | None = None,
    post: Post | None = None,
    check: str = "end",
    **solver_options: Any,
) -> Tensor:
    """The sample of `fewstep.sample`, differentiable: `loss(adjoint.sample(...)).backward()` just works.

        x0 = adjoint.sample(denoiser, x_T.requires_grad_(), "dpmpp_2m", 20);     reward(x0).sum().backward();     x_T.grad

    Gradients flow to x_T, to every leaf that any call of the network depends on and that requires one (parameters of every
    expert, embeddings, a guidance weight), to `cond`, to `z`, and to the numbers of a `Free` table.

    Args:
        denoiser, x_T, solver, nfe, grid, ...: as in `sample`. solver may be `adjoint.free(...)`.
        method: "checkpoint": exact, one latent a row is kept. "revolve", "segments": exact, `slots` states or one in sqrt(nfe)
            rows, for more network calls. "reversible": exact, two latents, for solvers with an exact inverse ("bdia", "alf",
            "rex", ...). "direct": autograd through the loop, with the memory of nfe network calls; any order of derivative.
            "adjoint_dpm", "adjoint_deis": the published continuous adjoints, approximate (see `continuous`).
        params: tensors to differentiate with respect to, instead of all leaves; () for none. cond: tensors that the network
            closes over and that have a graph of their own (a list of one a step). z: every noise of the run,
            (draws, B, *shape), see `noise_path`.
        slots: states that "revolve" holds (log2(nfe) + 1), or rows of a segment (sqrt(nfe)). offload: latents wait in host
            memory. last: gradients through the last rows only, a number or "random" (1..nfe, drawn by torch): no gradient of
            the loss, and with few rows it need not even lower it.
            accumulate: add gradients of leaves to their .grad row by row; for leaves that are parameters. method_options: of
            the continuous adjoints, e.g. {"order": 1}.

    Returns:
        (B, *shape) of x_T's dtype. Under no_grad, what `sample` returns.

    Cost: nfe network calls, and on the way back as many calls with their vector-Jacobian products. "revolve" and
    "segments" repeat calls, "reversible" makes each once more: `adjoint.cost` tells.

    Raises:
        ValueError: wrong arguments, before the first network call; a network that detaches; nothing that requires a
            gradient; tensors that have no part in the output; second derivatives of other methods than "direct".
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    validate(denoiser, x_T, check, post=post)
    refuse_transforms(x_T, method)
    validate_noise(x_T, generator, noise_seeds)
    check_kind(noise)
    for name in ("hook", "callback"):
        if name in solver_options:
            raise ValueError(
                f"`{name}` acts between the rows, where the way back knows no derivative: put it into the denoiser, or let "
                "autograd go through fewstep.sample, which takes it"
            )
    ways = Ways(slots, offload, last, accumulate, method_options or {})
    given = {"generator": generator, "noise_seeds": noise_seeds, "noise": noise}
    ends = {"nfe": nfe, "grid": grid, "t_start": t_start, "t_end": t_end}
    plays = chosen(solver.table() if isinstance(solver, Free) else solver)
    if isinstance(plays, Named) and plays.entry.kind == "driver":
        plan = partial(plain_sample, x_T=x_T, solver=solver, post=post, check=check, **given, **ends, **solver_options)
        return _driven(denoiser, plan, plays.entry.name, method)
    if isinstance(plays, Artefact):
        plays, ends["nfe"] = learned_table(denoiser, plays, x_T, nfe, guidance), None
    tableau = table_for(denoiser, plays, ends, solver_options)
    mu = mean_for(denoiser.schedule, x_T, mu)
    if method in OPTIONS:
        check_options(method, ways.options, tableau, z=z, free=isinstance(solver, Free), last=last, slots=slots)
    elif method_options:
        raise ValueError(
            f"`method_options` belong to {' and '.join(OPTIONS)}; got {dict(method_options)} with {method!r}"
        )
    source: Noise = (
        repeatable(noise, noise_seeds, generator, x_T, denoiser.schedule, denoiser.field)
        if z is None
        else Given(tableau, z, x_T)
    )
    run = TableRun(denoiser, tableau, x_T, source, z, mu, post, solver if isinstance(solver, Free) else None)
    x = run.play(method, params, (cond,) if isinstance(cond, Tensor) else tuple(cond), ways)
    if check != "none":
        require_finite(x, "the result")
    return x.to(x_T.dtype)


def _driven(denoiser: Denoiser, run: Any, solver: str, method: str) -> Tensor:
    """Samplers that choose their steps as they go: autograd through them, each network call made again on the way back."""
    if method not in ("direct", "checkpoint"):
        raise ValueError(
            f'{solver!r} chooses its steps as it goes and has no table: use method="checkpoint" or "direct"'
        )
    if not torch.is_grad_enabled() or method == "direct":
        return _graph(run(denoiser), solver)
    warnings.warn(
        f"{solver!r} chooses its steps as it goes and has no table: gradients go through its loop, with each network call "
        "checkpointed and the steps taken held fixed",
        stacklevel=3,
    )
    again = copy.copy(denoiser)

    def call(x: Tensor, *times: Tensor) -> Tensor:
        with set_checkpoint_early_stop(False):  # stopping in the middle of a suspended pipeline would end it
            output: Tensor = checkpoint(denoiser.fn, x, *times, use_reentrant=False)
        return output

    again.fn = call
    x0 = run(again)
    denoiser.nfe = again.nfe
    return _graph(x0, solver)


def _graph(x0: Tensor, solver: str) -> Tensor:
    """The sample itself; ValueError where gradients are on and it has none."""
    if torch.is_grad_enabled() and not x0.requires_grad:
        raise ValueError(
            f"no gradient comes through {solver!r}: it runs without gradients (picard leads to its base's sample: "
            "differentiate that), nothing that it uses requires one, or the network detaches"
        )
    return x0


def noise_path(
    denoiser: Denoiser, x_T: Tensor, solver: Any = "ddpm", nfe: int | None = None, grid: Any = None, *,
    noise_seeds: Sequence[int] | None = None, generator: Any = None, noise: str = "independent",
    t_start: float | None = None, t_end: float | None = None, **solver_options: Any,
) -> Tensor:  # fmt: skip
    """Every noise of a run in the order of drawing, (draws, B, *shape) beside x_T: what `sample(..., z=z)` takes.

    Arguments as in `sample`, whose result with them is that with `z`. Raises ValueError for a solver that draws none.
    """
    validate_noise(x_T, generator, noise_seeds)
    spec = {"nfe": nfe, "grid": grid, "t_start": t_start, "t_end": t_end}
    table = table_for(denoiser, solver, spec, solver_options)
    validate_place(table, denoiser)
    source = repeatable(noise, noise_seeds, generator, x_T, denoiser.schedule, denoiser.field)
    drawn = [source(draw, x_T) for draw in draws_of(table)]
    if not drawn:
        raise ValueError(
            f"{table.name} draws no noise: leave `z` away, or take a stochastic solver such as dpmpp_2m_sde"
        )
    return torch.stack(drawn)
