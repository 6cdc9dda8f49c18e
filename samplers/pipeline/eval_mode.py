"""Networks in eval mode while something is measured of them, and afterwards every module in the mode that it was in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.nn import Module


def modules_of(thing: Any) -> list[Module]:
    """A module with all inside it, or those of a pipeline's networks, each before its own parts; nothing for other things."""
    if isinstance(thing, Module):
        return list(thing.modules())
    named = getattr(thing, "components", None)
    held = vars(thing).values() if hasattr(thing, "__dict__") else ()
    parts = [*(named.values() if isinstance(named, Mapping) else ()), *held]
    found = (module for part in parts if isinstance(part, Module) for module in part.modules())
    return list(dict.fromkeys(found))


@contextmanager
def in_eval_mode(*things: Any) -> Iterator[None]:
    """Modules and pipelines in eval mode: dropout passes on what it gets, batch norm takes the statistics it has learned.

    At the end, after an error too, every module has the mode of its own that it had; whoever does more in `train` than to
    set it (adapters that merge their weights) is asked to do it.
    """
    modules = list(dict.fromkeys(module for thing in things for module in modules_of(thing)))
    before = [module.training for module in modules]
    if not any(before):
        yield
        return
    try:
        for module in modules:
            if module.training:
                module.eval()
        yield
    finally:
        for module, mode in zip(modules, before, strict=True):
            if module.training != mode:
                module.train(mode)  # its parts too: they come after it, and go back to their own
        for module, mode in zip(modules, before, strict=True):
            module.training = mode
