"""The loop of `sample` as a function of its coefficients: what gradients flow through.

    m_k            = p_k input + q_k network(input, tau_k)
    [carry, input] = W_k [carry, input, m_k, m_{k-1}, ..., z]

Each network call is forgotten and made again on the way back (`remember=False`), so that memory is that of one call and a
few states, however many calls there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from fewstep.samplers.learned.problem.problem import Part, Problem
from fewstep.samplers.learned.problem.threads import Threads
from fewstep.samplers.noise.sources import source
from fewstep.samplers.run.denoiser import Denoiser, clock
from fewstep.samplers.run.free_row import Coefficients, FreeRow
from fewstep.samplers.run.step import State, first_state
from fewstep.samplers.table.tableau import Tableau


def play(
    part: Part,
    layout: Tableau,
    coefficients: Coefficients,
    x: Tensor | None = None,
    remember: bool = False,
    cut: bool = False,
) -> list[Tensor]:
    """The network inputs of a part and its result, (nfe + 1) states (B, *shape), differentiable in all coefficients and x.

    But for the first time shown: it stays, as x_T does, so that there is no way back through the first call unless x has one.

    layout: any table with the same registers; its numbers are not used, but for the noises' ends.
    x: x_T, where it is not the part's own. remember: keep what the network needs for its gradient instead of calling it again.
    cut: gradients of a state reach back to the network call before it, no further.
    """
    x = part.x_T if x is None else x
    x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)  # as `sample` has states
    jumps = layout.schedule.jump_scale
    noise = source("brownian", list(part.seeds), None, len(part.seeds), jumps) if layout.stochastic else None
    state = first_state(layout, x)
    numbers = coefficients.beside(x)
    states = [state.input]
    for k in range(layout.nfe):
        turned = k > 0 or state.input.requires_grad  # neither x_T nor the first time shown depends on the coefficients
        with torch.set_grad_enabled(torch.is_grad_enabled() and turned):
            output = call(part.denoiser, state.input, numbers.tau[k], part.x_T.dtype, remember)
        drawn = [noise(draw, state.input) for draw in layout.draws(k)] if noise else []
        state = FreeRow(layout, k, numbers)(state, output, drawn)
        states.append(state.input)
        if cut:
            state = State(state.carry.detach(), state.input.detach(), tuple(m.detach() for m in state.history))
    return states


def call(denoiser: Denoiser, x: Tensor, tau: Tensor, dtype: torch.dtype, remember: bool) -> Tensor:
    """One network evaluation in `dtype`, remembered or made again when its gradient is asked for."""
    ask: Callable[[Tensor, Tensor], Tensor] = lambda x, tau: denoiser.call(x.to(dtype), tau).to(x.dtype)  # noqa: E731
    if remember or not torch.is_grad_enabled():
        return ask(x, tau)
    with set_checkpoint_early_stop(False):  # stopping in the middle of a suspended pipeline would end it
        found: Tensor = checkpoint(ask, x, tau, use_reentrant=False, preserve_rng_state=False)
    return found


def has_gradients(parts: Sequence[Part], t: float) -> bool:
    """Whether the network's output depends on its input in a way that torch can follow."""
    part = parts[0]
    x = part.x_T.detach().clone().requires_grad_()
    try:
        tau = torch.tensor(float(part.denoiser.schedule.model_time(t)), dtype=clock(x.dtype), device=x.device)
        with torch.enable_grad():
            output = part.denoiser.call(x, tau)
            (slope,) = torch.autograd.grad(output.square().sum(), x)
        return bool(torch.isfinite(slope).all())
    except (RuntimeError, NotImplementedError, TypeError):
        return False


def play_beside(
    problem: Problem, part: Part, layout: Tableau, coefficients: Coefficients, x: Tensor, **how: Any
) -> list[Tensor]:
    """`play` with the pieces of a part beside one another, on the way back too, where activations are remembered.

    Where they are not, and `problem.most` is less than a part, piece after piece: a call's activations are those of a piece.
    """
    small = problem.most is not None and problem.most < len(part.seeds)
    pieces = problem.pieces(part) if torch.is_grad_enabled() and (how.get("remember") or small) else (part,)
    if len(pieces) < 2:
        return play(part, layout, coefficients, x, **how)
    if not how.get("remember"):
        shares = x.split([len(piece.seeds) for piece in pieces])
        every = [play(piece, layout, coefficients, share, **how) for piece, share in zip(pieces, shares, strict=True)]
        return [torch.cat(states) for states in zip(*every, strict=True)]

    def played(piece: Part, x: Tensor, *numbers: Tensor) -> list[Tensor]:
        return play(piece, layout, Coefficients(*numbers), x, **how)

    states: tuple[Tensor, ...] = _Beside.apply(problem.threads, pieces, played, x, *coefficients.given)  # type: ignore[no-untyped-call]
    return list(states)


class _Beside(torch.autograd.Function):
    """States of a batch, played in pieces on their shares of x and on the same numbers, each with a graph of its own."""

    @staticmethod
    def forward(
        ctx: Any, threads: Threads, pieces: Sequence[Part], played: Callable[..., list[Tensor]], *values: Tensor
    ) -> tuple[Tensor, ...]:
        x, *numbers = values
        ctx.threads, ctx.sizes, ctx.wanted = threads, [len(piece.seeds) for piece in pieces], ctx.needs_input_grad[3:]
        every = [(share, *numbers) for share in x.split(ctx.sizes)]
        ctx.leaves = [[v.detach().requires_grad_(w) for v, w in zip(own, ctx.wanted, strict=True)] for own in every]
        with torch.enable_grad():
            ctx.states = threads.map(lambda i: played(pieces[i], *ctx.leaves[i]), range(len(pieces)))
        return tuple(torch.cat([state.detach() for state in states]) for states in zip(*ctx.states, strict=True))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        shares = list(zip(*(slope.split(ctx.sizes) for slope in slopes), strict=True))

        def back(i: int) -> list[Tensor]:
            ends = [
                (state, slope) for state, slope in zip(ctx.states[i], shares[i], strict=True) if state.requires_grad
            ]
            leaves = [leaf for leaf in ctx.leaves[i] if leaf.requires_grad]
            states, own = zip(*ends, strict=True)
            found = torch.autograd.grad(states, leaves, own, allow_unused=True)
            return [torch.zeros_like(v) if g is None else g for g, v in zip(found, leaves, strict=True)]

        found = zip(*ctx.threads.map(back, range(len(shares))), strict=True)
        x, *numbers = (next(found) if w else None for w in ctx.wanted)
        summed = (None if pieces is None else torch.stack(pieces).sum(0) for pieces in numbers)
        return None, None, None, None if x is None else torch.cat(x), *summed
