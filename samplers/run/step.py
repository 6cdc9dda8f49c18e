"""Plays a table: each row becomes a `Step`, a pure function (state, output, noises) -> state.

A step is at most four tensor operations, reads nothing from the device and changes nothing, so it can be compiled,
captured in a graph and differentiated. `lowering.py` makes the steps of a Tableau.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.run.ownership import require_kept, version
from fewstep.samplers.table.tableau import Tableau

Post = Callable[[Tensor], Tensor]
INPUT = 1  # register of the network's input
# (register, weight) pairs; weight None stands for 1
Terms = tuple[tuple[int, Tensor | None], ...]


class State(NamedTuple):
    """What a sampler carries from call to call: anchor, next network input, earlier outputs (newest first).

    versions: counters of in-place changes of the outputs when they came, where they are known.
    """

    carry: Tensor
    input: Tensor
    history: tuple[Tensor, ...] = ()
    versions: tuple[int | None, ...] = ()

    def __reduce__(self) -> Any:
        """Counters of a copy are its own."""
        return _counted, tuple(self[:3])


def _counted(carry: Tensor, x: Tensor, history: tuple[Tensor, ...]) -> State:
    return State(carry, x, history, tuple(map(version, history)))


@dataclass(frozen=True)
class Place:
    """Row `index` of a table, as what asks a denoiser; a Step is one too."""

    tableau: Tableau
    index: int

    @property
    def target(self) -> Tensor:
        """Where the row leads, in the network's unit."""
        return torch.tensor(self.tableau.target_times[self.index])


@dataclass(eq=False)
class Step:
    """Row `index` of a table, bound to a device and a prediction type. Registers: carry, input, m, noises, const, history.

    t: time of the call in the schedule's unit. model_time: 0-dim tensor, what the network is shown; target: where the row
    leads by it, in the same unit, for networks of two times.
    x0_terms: predicted x0 from (input, output, constant). m_terms: m from (input, output), or from (input, x0) when `post`
    acts on x0 in between. input, carry: the two lines of W; carry is "same" (as input), "keep" (unchanged) or terms.
    stacked: registers and weight vectors of long lines, done as one stack and one product a line.
    wide: weights (lines, R, 1, *shape) of all registers, the output in place of m, where they differ by element: the lines
    are input, carry unless it is a word, and m where it is kept.
    filters: (C or 1, registers, k, k) of the input, m and the newest of the history, added to the input line, see `spatial`.
    keep: how many outputs, this one included, later rows still read. draws: noises this row reads. tableau: whose row it is.
    """

    index: int
    t: float
    model_time: Tensor
    x0_terms: Terms
    m_terms: Terms
    input: Terms
    carry: Terms | str
    keep: int
    draws: tuple[Draw, ...] = ()
    stacked: tuple[tuple[int, ...], tuple[Tensor, ...]] | None = None
    wide: Tensor | None = None
    filters: Tensor | None = None
    post: Post | None = None
    constant: Tensor | None = None
    next: Step | None = None
    tableau: Tableau | None = None
    target: Tensor | None = None

    @property
    def views(self) -> int:
        """Tensors that it holds, apart from `wide`."""
        return _tensors(
            (self.x0_terms, self.m_terms, self.input, self.carry, self.stacked, self.model_time, self.target)
        )

    @property
    def wide_bytes(self) -> int:
        """Memory of `wide` and `filters`."""
        return sum(v.nbytes for v in (self.wide, self.filters) if v is not None)

    def __deepcopy__(self, memo: object) -> Step:
        """A step changes nothing and is never changed: a copy is the step itself."""
        return self

    def __call__(self, state: State, output: Tensor, noises: Sequence[Tensor] = ()) -> State:
        """The state after this row, given the network's output at state.input."""
        output = output.to(state.input.dtype)
        told = not torch.compiler.is_compiling() and len(state.versions) == len(state.history)
        if told:
            require_kept(output, state.history, state.versions)
        source = output if self.post is None else self.post(self.x0(state.input, output))
        constant = () if self.constant is None else (self.constant,)
        if self.wide is not None:
            after, carry, m = self._wide(state, source, (*noises, *constant))
        else:
            m = combine(self.m_terms, (state.input, source))
            registers = (state.carry, state.input, m, *noises, *constant, *state.history)
            if self.stacked is None:
                after = combine(self.input, registers)
                carry = None if isinstance(self.carry, str) else combine(self.carry, registers)
            else:
                after, carry = stacked_sums(*self.stacked, registers)
        if self.filters is not None:
            after = after + spatial(self.filters, (state.input, m, *state.history)[: self.filters.shape[1]])
        if carry is None:
            carry = state.carry if self.carry == "keep" else after
        versions = (version(m), *state.versions)[: self.keep] if told and self.keep else ()
        return State(carry, after, (m, *state.history)[: self.keep], versions)

    def _wide(self, state: State, source: Tensor, extra: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
        """The lines with a weight for every element: one stack, one product, one sum."""
        assert self.wide is not None
        registers = (state.carry, state.input, source, *extra, *state.history)
        stack = torch.stack([register.expand_as(state.input) for register in registers])
        after, *others = (stack * self.wide).sum(1).unbind()
        carry = None if isinstance(self.carry, str) else others.pop(0)
        return after, carry, others[0] if others else after

    def x0(self, x: Tensor, output: Tensor) -> Tensor:
        """The clean sample that the network's output at x predicts, before clipping."""
        constant = () if self.constant is None else (self.constant,)
        return combine(self.x0_terms, (x, output.to(x.dtype), *constant))


def combine(terms: Terms, registers: Sequence[Tensor]) -> Tensor:
    """sum_i w_i register_i, one fused multiply-add a term."""
    (i, w), *rest = terms
    out = registers[i] if w is None else registers[i] * w
    for j, v in rest:
        out = out + registers[j] if v is None else torch.addcmul(out, registers[j], v)
    return out


def _tensors(item: Any) -> int:
    return sum(map(_tensors, item)) if isinstance(item, tuple) else int(isinstance(item, Tensor))


def first_state(tableau: Tableau, x: Tensor) -> State:
    """The state before the first network call: x, as large as the table begins, in both places.

    Raises:
        ValueError: the table is for another shape.
    """
    cells, shape = tableau.W.shape[3:], tuple(x.shape[1:])
    if cells and (len(cells) != len(shape) or any(c not in (1, n) for c, n in zip(cells, shape, strict=True))):
        raise ValueError(
            f"{tableau.name}: its weights are of shape {cells}, the samples of shape {shape}. Give statistics of the "
            "samples' shape, with 1 for an axis along which they are equal"
        )
    filters = tableau.filters
    if filters is not None and (len(shape) != 3 or filters.shape[2] not in (1, shape[0])):
        raise ValueError(
            f"{tableau.name}: its filters are for images of {filters.shape[2]} channels, (B, {filters.shape[2]}, H, W); "
            f"samples here are of shape {shape}. Play the table without, dataclasses.replace(table, filters=None), or learn on "
            "samples of this shape"
        )
    x = x if tableau.begins == 1 else x * tableau.begins
    return State(x, x)


def moved(state: State, x: Tensor | Post) -> State:
    """The state with another input in place, the anchor moved by the same displacement; or all of it through a function."""
    if callable(x):
        after = x(state.input)
        carry = after if state.carry is state.input else x(state.carry)
        return State(carry, after, tuple(map(x, state.history)))
    if x is state.input:
        return state
    carry = x if state.carry is state.input else state.carry + (x - state.input)
    return State(carry, x, state.history, state.versions)


def like_state(output: Tensor, x: Tensor) -> Tensor:
    """The output in x's shape: as it is, or the first half of its channels where it also predicts a variance."""
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the network returned {type(output).__name__}; expected a tensor of the state's shape (diffusers models hold "
            "theirs in `.sample`)"
        )
    if output.shape == x.shape:
        return output
    if output.ndim == x.ndim > 1 and output.shape[1] == 2 * x.shape[1] and output.shape[2:] == x.shape[2:]:
        return output[:, : x.shape[1]]
    raise ValueError(
        f"the network returned shape {tuple(output.shape)} for a state of shape {tuple(x.shape)}; expected the same shape, "
        "or twice the channels with a learned variance"
    )


def stacked_sums(
    used: Sequence[int], lines: Sequence[Tensor], registers: Sequence[Tensor]
) -> tuple[Tensor, Tensor | None]:
    """One or two weighted sums of the registers `used`: a stack and a product a line.

    In the state's precision: the caller's autocast, which would round products, stays out of it.
    """
    like = registers[INPUT]
    if torch.is_autocast_enabled(like.device.type):
        with torch.autocast(like.device.type, enabled=False):
            return stacked_sums(used, lines, registers)
    flat = torch.stack([registers[i].expand_as(like) for i in used]).flatten(1).t()
    first = torch.mv(flat, lines[0]).view_as(like)
    return first, torch.mv(flat, lines[1]).view_as(like) if len(lines) > 1 else None


def spatial(weights: Tensor, registers: Sequence[Tensor]) -> Tensor:
    """sum of registers (B, C, H, W) under filters (C or 1, registers, k, k), k odd: one stack and one convolution.

    (F * u)(p) = sum_d F(d) u(p + d), zero outside, each channel by itself. Linear, so that a row stays linear in its registers.
    """
    x = torch.stack(list(registers), 2)
    channels = x.shape[1]
    kernel = weights.to(x).expand(channels, *weights.shape[1:])
    with _exact(x):
        return conv2d(x.flatten(1, 2), kernel, padding=weights.shape[-1] // 2, groups=channels)


def _exact(x: Tensor) -> AbstractContextManager[object]:
    """In the state's own precision: no autocast, and on a GPU no products of fewer digits."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    if kind == "cuda" and torch.backends.cudnn.allow_tf32 and not torch.compiler.is_compiling():
        return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)  # type: ignore[no-any-return]
    return nullcontext()
