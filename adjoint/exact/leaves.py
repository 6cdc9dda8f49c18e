"""What a network's output depends on: the tensors outside it that a gradient can flow to, found in the graph of one call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.samplers.run.ownership import WRITES

Call = Callable[[Tensor], Tensor]


class Found(NamedTuple):
    """Of one network call: what gradients go to beside its input; its output, without graph; the states of the generators
    before it, where it drew random numbers; whether its graph goes on to one that was there before."""

    leaves: tuple[Tensor, ...]
    output: Tensor
    random: list[Tensor] | None
    outside: bool


def discover(call: Call, x: Tensor, params: Collection[Tensor] | None, cond: Sequence[Tensor]) -> Found:
    """The tensors that `call(x)` depends on: those of params and cond that require a gradient, or, with params=None, cond and
    every leaf of the call's graph.

    Raises:
        ValueError: an output that does not depend on x; params that are not in the graph; batch norm that is training. cond
        may come in later: conditions may differ from call to call.
    """
    inner = x.detach().requires_grad_()
    before = random_state(x.device)
    with torch.enable_grad():
        first = _number(inner)
        try:
            output = call(inner)
        except RuntimeError as error:
            if "leaf Variable that requires grad" in str(error) and "in-place" in str(error):
                raise ValueError(WRITES) from error
            if "dtype" not in str(error) and "scalar type" not in str(error):
                raise
            raise ValueError(
                f"the network does not take what it was given beside a state of {x.dtype} ({error}): give x_T in the network's "
                "dtype, and conditions too"
            ) from error
    named = tuple(t for t in (*(params or ()), *cond) if t.requires_grad)
    stops = {_place(t): t for t in (inner, *named)}
    reached, free, outside = _walk(output, stops, first)
    if not any(t is inner for t in reached):
        raise ValueError(
            "the network's output does not depend on its input in a way that torch can follow: it detaches, runs under "
            "no_grad or in inference mode. Let gradients through, or sample without them: fewstep.sample"
        )
    asked = [t for t in (params or ()) if t.requires_grad]
    check_used("params", asked, [any(t is r for r in reached) for t in asked])
    drew = not all(torch.equal(a, b) for a, b in zip(before, random_state(x.device), strict=True))
    return Found((*named, *(free if params is None else ())), output.detach(), before if drew else None, outside)


def check_used(name: str, asked: Sequence[Tensor], used: Sequence[bool]) -> None:
    """ValueError for tensors that gradients are asked for and that have no part in the network's output."""
    missing = [t for t, part in zip(asked, used, strict=True) if not part]
    if missing:
        shapes = ", ".join(str(tuple(t.shape)) for t in missing[:3])
        raise ValueError(
            f"{len(missing)} of the {len(asked)} tensors in `{name}` have no part in the network's output (shapes "
            f"{shapes}{', ...' if len(missing) > 3 else ''}): pass the tensors that the denoiser closes over themselves, not "
            "copies, and leave away those it does not use"
        )


def _number(x: Tensor) -> int:
    """Nodes of the graph made from now on have this number or a higher one."""
    return int((x * 1).grad_fn._sequence_nr())  # type: ignore[union-attr]


def _place(t: Tensor) -> tuple[Any, int]:
    """(node, output) of the graph where a tensor is."""
    edge = torch.autograd.graph.get_gradient_edge(t)
    return edge.node, edge.output_nr


def _walk(output: Tensor, stops: dict[tuple[Any, int], Tensor], first: int) -> tuple[list[Tensor], list[Tensor], bool]:
    """(stops that are reached, other leaves, whether there are nodes older than `first`) of the graph behind `output`."""
    reached: dict[int, Tensor] = {}
    free: dict[int, Tensor] = {}
    edges, outside = [_place(output)] if output.requires_grad else [], False
    seen = set(edges)
    while edges:
        edge = edges.pop()
        node = edge[0]
        if edge in stops:
            reached[id(stops[edge])] = stops[edge]
            continue
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            free[id(leaf)] = leaf
            continue
        outside = outside or node._sequence_nr() < first
        if "BatchNorm" in node.name() and getattr(node, "_saved_training", getattr(node, "_saved_train", False)):
            raise ValueError(
                "the network normalises by the batch (batch norm in training mode): samples would depend on their "
                "neighbours, and calling it again changes its statistics. Call .eval() on it"
            )
        for after in node.next_functions:
            if after[0] is not None and after not in seen:
                seen.add(after)
                edges.append(after)
    return list(reached.values()), list(free.values()), outside


def random_state(device: torch.device) -> list[Tensor]:
    """State of torch's own generators, the CPU's and the device's."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def set_random_state(device: torch.device, states: Sequence[Tensor]) -> None:
    """Puts generators back into a state that `random_state` told."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
