"""Where an artefact is valid: the guidance, adapters, shapes and dtype that it was learned in, and how far a run is from them.

    {"guidance": {"guidance_scale": [7.5]}, "adapters": {}, "shapes": [[4, 64, 64]], "dtype": "float16", "weights": "..."}

A run tells what it knows, by the same names: a pipeline its call and its adapters, a state its shape and dtype. What nobody
knows is not checked. Policies: "warn", the default; "refuse"; "nearest", which plays the nearest guidance's table and says so.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from numbers import Real
from typing import Any

import torch
from torch.nn import Module

POLICIES = ("warn", "refuse", "nearest")
NEAR = 0.02  # relative: scales this close are the same
SCALES = ("true_cfg_scale", "cfg_scale", "pag_scale", "guidance_rescale", "controlnet_conditioning_scale")
FEW = 64  # numbers looked at in a tensor


def checked_policy(policy: str | None) -> str:
    """The policy, "warn" where none is said. ValueError for another word."""
    if policy is not None and policy not in POLICIES:
        raise ValueError(f"`policy` must be one of {', '.join(map(repr, POLICIES))}; got {policy!r}")
    return policy or "warn"


def is_scale(name: str) -> bool:
    """Whether an argument of a pipeline's call is a strength of guidance."""
    return "guidance_scale" in name or name in SCALES


def scales_of(pipe: Any, arguments: Mapping[str, Any]) -> dict[str, float]:
    """The strengths of guidance that a pipeline is called with, its defaults where nothing is said."""
    found = {}
    for name, parameter in inspect.signature(type(pipe).__call__).parameters.items():
        value = arguments.get(name, parameter.default)
        if is_scale(name) and isinstance(value, Real) and not isinstance(value, bool):
            found[name] = float(value)
    return found


def networks_of(pipe: Any) -> dict[str, Module]:
    """The networks of a pipeline by name."""
    return {name: part for name, part in getattr(pipe, "components", {}).items() if isinstance(part, Module)}


def adapters_of(pipe: Any) -> dict[str, float]:
    """Active adapters (LoRA and the like) of a pipeline's networks and their largest scale; fused ones where it is told.

    Read off the layers: `scaling` by name, `active_adapters`, `merged_adapters`, `disable_adapters`; a fusion that leaves
    nothing but other weights is told by these.
    """
    found: dict[str, float] = {}
    for layer in (layer for network in networks_of(pipe).values() for layer in network.modules()):
        scaling = getattr(layer, "scaling", None)
        if not isinstance(scaling, dict):
            continue
        off = getattr(layer, "disable_adapters", False)
        named = [] if off is True else getattr(layer, "active_adapters", None) or getattr(layer, "active_adapter", [])
        merged = list(getattr(layer, "merged_adapters", None) or [])
        for name in dict.fromkeys([*([named] if isinstance(named, str) else named), *merged]):
            if isinstance(value := scaling.get(name), Real):
                found[str(name)] = max(found.get(str(name), 0.0), float(value))
    for network in networks_of(pipe).values():
        for processor in (getattr(network, "attn_processors", None) or {}).values():
            if "IPAdapter" in type(processor).__name__ and (scales := getattr(processor, "scale", None)):
                strongest = [
                    max(s) if isinstance(s, list) else s for s in (scales if isinstance(scales, list) else [scales])
                ]
                found["ip_adapter"] = max(found.get("ip_adapter", 0.0), *map(float, strongest))
    for name in getattr(pipe, "fused_loras", None) or ():
        found.setdefault(f"{name} (fused)", 1.0)
    return dict(sorted(found.items()))


def few_weights(networks: Iterable[Module]) -> Iterator[bytes]:
    """A few numbers of every tensor: enough to tell training runs apart, and cheap on a model of any size."""
    for tensor in (t for network in networks for t in network.state_dict().values()):
        few = tensor.flatten()[:: max(1, tensor.numel() // FEW)][:FEW]
        yield few.detach().to("cpu", torch.float64).numpy().tobytes()


def weights_of(pipe: Any) -> str:
    """Hash of a few numbers of every tensor of a pipeline's networks."""
    return hashlib.sha256(b"".join(few_weights(networks_of(pipe).values()))).hexdigest()[:16]


def departures(domain: Mapping[str, Any], seen: Mapping[str, Any]) -> list[str]:
    """How a run differs from where an artefact was learned, in words with how much; what either does not know is left out."""
    found = []
    for name, value in (seen.get("guidance") or {}).items():
        known = (domain.get("guidance") or {}).get(name)
        if known and not _among(value, known):
            found.append(
                f"{name} {value:g}, {_ratio(value, min(known, key=lambda k: abs(k - value)))} {_listed(known)}"
            )
    shapes = [tuple(shape) for shape in domain.get("shapes") or ()]
    if shapes and "shape" in seen and tuple(seen["shape"]) not in shapes:
        shape = tuple(seen["shape"])
        near = min(shapes, key=lambda s: abs(prod(s) - prod(shape)))
        found.append(f"samples of shape {shape}, {_ratio(prod(shape), prod(near))} the numbers of {near}")
    if "dtype" in seen and domain.get("dtype") not in (None, seen["dtype"]):
        found.append(f"{seen['dtype']} instead of {domain['dtype']}")
    if "adapters" in seen and "adapters" in domain and not _same(seen["adapters"], domain["adapters"]):
        found.append(f"adapters {_adapters(seen['adapters'])} instead of {_adapters(domain['adapters'])}")
    if "weights" in seen and domain.get("weights") not in (None, seen["weights"]):
        found.append("other weights")
    return found


def meet(found: Iterable[str], policy: str) -> None:
    """What a policy makes of departures: a ValueError or a warning, each of which says by how much."""
    if not (said := "; ".join(found)):
        return
    if policy == "refuse":
        raise ValueError(f"this artefact was not learned for this run: {said}. Learn it there, or policy='warn'")
    warnings.warn(f"this artefact is played where its gain was not measured: {said}", stacklevel=3)


def _among(value: float, known: Iterable[float]) -> bool:
    low, high = min(known), max(known)
    slack = NEAR * max(abs(low), abs(high), abs(value))
    return low - slack <= value <= high + slack


def _ratio(value: float, near: float) -> str:
    return f"{value / near:.3g} times" if near else f"{value:+.3g} from"


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{v:g}" for v in sorted(values))


def _same(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return set(one) == set(other) and all(abs(one[name] - other[name]) <= NEAR * abs(other[name]) for name in one)


def _adapters(found: Mapping[str, float]) -> str:
    return ", ".join(f"{name} at {scale:g}" for name, scale in found.items()) or "none"
