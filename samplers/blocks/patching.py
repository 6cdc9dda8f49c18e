"""Blocks that ask the run at work whether they are to be computed, for the span of that run.

While some run needs it, a block's `forward` is one that looks for the run of its own thread; for others it is what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

from torch.nn import Module

Forward = Callable[..., Any]


class Asked(Protocol):
    """A run that says what a block returns: what `forward` makes, or what stands for it."""

    def ask(self, block: Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


AT_WORK: ContextVar[Asked | None] = ContextVar("feature cache", default=None)


@dataclass
class _Patch:
    """What stood in a block's own attributes as `forward` (None: nothing), what stands there now, and for how many runs."""

    own: Forward | None
    now: Forward
    users: int


_PATCHES: dict[int, _Patch] = {}  # by id of blocks that are in use, which therefore live
_LOCK = Lock()


@contextmanager
def patched(blocks: Sequence[Module]) -> Iterator[None]:
    """Within, these blocks ask. Nothing is left on them afterwards, whatever happens.

    Raises:
        ValueError: a block that was compiled by itself, which does not ask.
    """
    for block in blocks:
        if getattr(block, "_compiled_call_impl", None) is not None:
            raise ValueError(
                f"{type(block).__name__} is compiled by itself, so that it cannot be left out: compile what stands within it"
            )
    with _LOCK:
        for block in blocks:
            _enter(block)
    try:
        yield
    finally:
        with _LOCK:
            for block in blocks:
                _leave(block)


@contextmanager
def at_work(run: Asked) -> Iterator[None]:
    """Within, and in this thread, the blocks ask this run."""
    token = AT_WORK.set(run)
    try:
        yield
    finally:
        AT_WORK.reset(token)


def _enter(block: Module) -> None:
    if (patch := _PATCHES.get(id(block))) is not None:
        patch.users += 1
        return
    forward = block.forward

    def asking(*args: Any, **kwargs: Any) -> Any:
        run = AT_WORK.get()
        return forward(*args, **kwargs) if run is None else run.ask(block, forward, args, kwargs)

    _PATCHES[id(block)] = _Patch(vars(block).get("forward"), asking, 1)
    block.forward = asking  # type: ignore[method-assign]


def _leave(block: Module) -> None:
    patch = _PATCHES[id(block)]
    patch.users -= 1
    if patch.users:
        return
    del _PATCHES[id(block)]
    if vars(block).get("forward") is not patch.now:  # somebody has put another there, around ours, which is silent now
        return
    if patch.own is None:
        del block.forward
    else:
        block.forward = patch.own  # type: ignore[method-assign]


def require_at_work(scheduler: Any) -> None:
    """ValueError where nobody leaves out what this scheduler's table leaves out."""
    if getattr(AT_WORK.get(), "scheduler", None) is not scheduler:
        raise ValueError(
            "this table leaves blocks of the network out, and a scheduler does not know the network: call the pipeline within "
            "fewstep.samplers.feature_cache(pipe), or play the table with dataclasses.replace(table, cache=None)"
        )
