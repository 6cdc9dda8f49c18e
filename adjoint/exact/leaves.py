"""What the network's outputs depend on: the tensors outside it that a gradient can flow to, found in the graphs of the calls.

Calls differ in what they use: one of two experts is in charge, guidance acts within an interval, a condition comes in later.
So every call of the sample is looked at, one after another, until all that was named has been met.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.samplers.run.ownership import WRITES

Call = Callable[[Tensor], Tensor]


class Search:
    """The tensors that the calls depend on: those of params and cond that require a gradient, or, with params=None, cond and
    every leaf of the calls' graphs.

    outside: whether a graph goes on to one that was there before.
    """

    def __init__(self, params: Collection[Tensor] | None, cond: Sequence[Tensor]):
        self.asked = [t for t in (params or ()) if t.requires_grad]
        self.named = (*self.asked, *(t for t in cond if t.requires_grad))
        self.all, self.outside = params is None, False
        self._free: dict[int, Tensor] = {}
        self._met: set[int] = set()
        self._calls = 0

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """What gradients go to beside the input."""
        return (*self.named, *self._free.values())

    def look(self, call: Call, x: Tensor) -> Tensor:
        """call(x), without graph; in the graph is looked for what it depends on.

        Raises:
            ValueError: an output that does not depend on x; batch norm that is training.
        """
        done = self._calls > 0 and not self.all and all(id(t) in self._met for t in self.named)
        self._calls += 1
        if done:
            return call(x)
        inner = x.detach().requires_grad_()
        output, first = _with_graph(call, inner)
        reached, free, outside = _walk(output, {_place(t): t for t in (inner, *self.named)}, first)
        if not any(t is inner for t in reached):
            raise ValueError(
                "the network's output does not depend on its input in a way that torch can follow: it detaches, runs under "
                "no_grad or in inference mode. Let gradients through, or sample without them: fewstep.sample"
            )
        self._met |= {id(t) for t in reached}
        self._free |= {id(t): t for t in free} if self.all else {}
        self.outside = self.outside or outside
        return output.detach()

    def check(self) -> None:
        """ValueError for params that no call depends on. cond is checked when its gradients are there."""
        check_used("params", self.asked, [id(t) in self._met for t in self.asked])


def _with_graph(call: Call, inner: Tensor) -> tuple[Tensor, int]:
    """(call(inner) with its graph, the number of the graph's first node)."""
    with torch.enable_grad():
        first = _number(inner)
        try:
            return call(inner), first
        except RuntimeError as error:
            if "leaf Variable that requires grad" in str(error) and "in-place" in str(error):
                raise ValueError(WRITES) from error
            if "dtype" not in str(error) and "scalar type" not in str(error):
                raise
            raise ValueError(
                f"the network does not take what it was given beside a state of {inner.dtype} ({error}): give x_T in the "
                "network's dtype, and conditions too"
            ) from error


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
