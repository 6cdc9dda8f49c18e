"""Networks behind a denoiser or a pipeline, and the blocks of a network: by their paths, or the inner ones by themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor
from torch.nn import Module, ModuleList

DEPTH = 8  # of objects within objects that are looked into
ASKED = ("unet", "transformer", "prior")  # parts of a pipeline that are asked at every step
SAY = "Let the denoiser's fn be the network, or a function that names it: Denoiser(lambda x, tau: unet(x, tau).sample, ...)"


def networks(asked: Any) -> list[Module]:
    """The networks that a denoiser, a pipeline or a function asks: what it is, holds, closes over or names, each once."""
    found: dict[int, Module] = {}
    seen: set[int] = set()

    def look(thing: Any, depth: int) -> None:
        if id(thing) in seen or depth > DEPTH:
            return
        seen.add(id(thing))
        if isinstance(thing, Module):
            found.setdefault(id(thing), thing)
            return
        for part in _parts(thing):
            look(part, depth + 1)

    look(asked, 0)
    return list(found.values())


def _parts(thing: Any) -> Iterator[Any]:
    """What an object is made of, as far as a network may be among it."""
    if isinstance(thing, (str, bytes, int, float, complex, type, ModuleType, type(None), Tensor)):
        return
    if isinstance(thing, partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, MethodType):
        yield from (thing.__self__, thing.__func__)
    elif isinstance(thing, FunctionType):
        names = inspect.getclosurevars(thing)
        yield from (*names.nonlocals.values(), *names.globals.values(), *(thing.__defaults__ or ()))
    elif isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, (list, tuple)):
        yield from thing
    elif isinstance(components := getattr(thing, "components", None), dict):  # a pipeline
        yield from (components[name] for name in sorted(components, key=lambda name: name not in ASKED))
    elif hasattr(thing, "__dict__"):
        yield from vars(thing).values()


def network_of(asked: Any) -> Module:
    """The one network that is asked at every step. ValueError where there is none, or several."""
    components = next((c for c in map(_components, _reached(asked)) if c), None)
    if components is not None:
        known = [components[name] for name in ASKED if isinstance(components.get(name), Module)]
    else:
        known = networks(asked)
    if len(known) == 1:
        return known[0]
    if not known:
        raise ValueError(
            f"no network is found behind {type(asked).__name__}, so that nothing is known of its blocks. {SAY}"
        )
    kinds = ", ".join(type(network).__name__ for network in known)
    raise ValueError(
        f"{len(known)} networks are asked here ({kinds}), and a feature cache is for one: name its `blocks`"
    )


def _reached(asked: Any) -> Iterator[Any]:
    """The object, and what stands behind it as its `fn`, `inner` or `pipe`."""
    for _ in range(DEPTH):
        yield asked
        owner = getattr(asked, "__self__", None)  # of a bound method
        found = [getattr(asked, name, None) for name in ("pipe", "inner", "fn")]
        asked = next((part for part in (*found, owner) if part is not None), None)
        if asked is None:
            return


def _components(thing: Any) -> dict[str, Any] | None:
    found = getattr(thing, "components", None)
    return found if isinstance(found, dict) and not isinstance(thing, Module) else None


def network_with(asked: Any, blocks: Iterable[str]) -> Module:
    """The network that has these blocks. ValueError where none has, or two have."""
    names, known = tuple(blocks), networks(asked)
    having = [network for network in known if all(_has(network, name) for name in names)]
    if len(having) == 1:
        return having[0]
    if having:
        raise ValueError(f"{len(having)} networks have the block {names[0]!r}, and a feature cache is for one of them")
    if not known:
        raise ValueError(
            f"no network is found behind {type(asked).__name__}, and this table leaves its blocks out. {SAY}"
        )
    if any(hasattr(network, "_orig_mod") for network in known):
        raise ValueError(
            "the network is compiled as a whole and asks its blocks no more: compile what stands within them"
        )
    missing = next(name for name in names if not all(_has(network, name) for network in known))
    kinds = ", ".join(type(network).__name__ for network in known)
    raise ValueError(
        f"this table leaves out {missing!r} and {len(names) - 1} other blocks, and {kinds} has no such block: it was "
        "learned for another network. Learn it for this one, or dataclasses.replace(table, cache=None)"
    )


def _has(network: Module, name: str) -> bool:
    try:
        network.get_submodule(name)
    except AttributeError:
        return False
    return True


def inner_blocks(network: Module) -> tuple[tuple[str, ...], ...]:
    """One group: of a U-Net all but its outermost level; of a chain of blocks all but the first and the last.

    Raises:
        ValueError: a network of another make.
    """
    down, up = getattr(network, "down_blocks", None), getattr(network, "up_blocks", None)
    if isinstance(down, ModuleList) and isinstance(up, ModuleList) and min(len(down), len(up)) > 1:
        middle = ["mid_block"] * isinstance(getattr(network, "mid_block", None), Module)
        inner = [*(f"down_blocks.{i}" for i in range(1, len(down))), *middle]
        return ((*inner, *(f"up_blocks.{i}" for i in range(len(up) - 1))),)
    chains = [
        (name, part)
        for name, part in network.named_children()
        if isinstance(part, ModuleList) and len(part) > 1 and len({type(block) for block in part}) == 1
    ]
    names = [f"{name}.{i}" for name, part in chains for i in range(len(part))]
    if len(names) < 3:
        raise ValueError(
            f"no chain of blocks is found in {type(network).__name__}: name them in the order of their calls, "
            "blocks=[['blocks.1', 'blocks.2']], as network.named_modules() tells"
        )
    return (tuple(names[1:-1]),)
