"""Weights that were tuned for one table are known by it: played by another, a run says so.

A network carries what it was tuned for as an attribute, or lies in a folder beside a file that tells it:

    {"solver": "ddim", "nfe": 4, "times": [...], "W": [...]}
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn import Module

from fewstep.samplers.validity.domain import networks_of

FILE = "tuned.json"  # beside weights: an entry "bound" tells the table
MARK = "_fewstep_bound"
MOST = 10_000  # numbers of W that are told; of larger ones the times alone
SAME = 1e-6  # relative, of numbers of one table


def told_of(table: Any) -> dict[str, Any]:
    """What a table is known by, as JSON."""
    told = {"solver": table.name, "nfe": int(table.nfe), "times": np.asarray(table.model_times).tolist()}
    return told if table.W.size > MOST else {**told, "W": np.asarray(table.W).tolist()}


def bind(networks: Iterable[Module], told: Mapping[str, Any] | None) -> None:
    """These networks were tuned for this table; None: for none."""
    for network in networks:
        object.__setattr__(network, MARK, None if told is None else dict(told))


def bound(thing: Any) -> dict[str, Any] | None:
    """The table that a network, a pipeline's, or that of a Denoiser's function was tuned for, where that is known."""
    networks = [thing] if isinstance(thing, Module) else list(networks_of(getattr(thing, "pipe", thing)).values())
    for network in networks:
        if MARK not in network.__dict__:
            bind([network], _beside(network))
        if (told := network.__dict__[MARK]) is not None:
            return dict(told)
    return None


def meet_bound(thing: Any, table: Any) -> None:
    """A warning where the weights were tuned for another table than this one."""
    if (told := bound(thing)) is None or _same(told, table):
        return
    warnings.warn(
        f"these weights were tuned for {told['solver']} at {told['nfe']} evaluations, and {table.name} at {table.nfe} was not "
        "measured with them: play the table that lies beside them, or take the weights of before",
        stacklevel=3,
    )


def _beside(network: Module) -> dict[str, Any] | None:
    """What the file in a pipeline's folder tells, of networks that were loaded from it."""
    place = getattr(getattr(network, "config", None), "_name_or_path", None)
    if not isinstance(place, str) or not place:
        return None
    with suppress(OSError, ValueError, AttributeError):
        for folder in (Path(place), Path(place).parent):
            if (folder / FILE).is_file():
                told = json.loads((folder / FILE).read_text(encoding="utf-8"))
                known = told.get("bound")
                named = (told.get("networks") or []) if told.get("status") == "tuned" else []
                if isinstance(known, dict) and {"solver", "nfe", "times"} <= set(known) and Path(place).name in named:
                    return known
    return None


def _same(told: Mapping[str, Any], table: Any) -> bool:
    def alike(one: Any, other: Any) -> bool:
        a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
        return a.shape == b.shape and np.allclose(a, b, rtol=SAME, atol=SAME)

    return alike(told["times"], table.model_times) and ("W" not in told or alike(told["W"], table.W))
