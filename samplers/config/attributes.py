"""Values put onto a config after it was made: `scheduler.config.flow_shift = 6.9` sets an attribute and no entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Config = Mapping[str, Any]


def attributes(config: Any) -> dict[str, Any]:
    """Attributes of a config that are not what its entries say; they are what diffusers' own classes read."""
    held = getattr(config, "__dict__", {})
    return {
        name: v for name, v in held.items() if name[0] != "_" and (name not in config or not _equal(v, config[name]))
    }


def changed(config: Config, before: Config) -> dict[str, Any]:
    """Entries of a config that were set since it was `before`, as entries or as attributes.

    Raises:
        ValueError: one that was set to two values.
    """
    told = {name: v for name, v in config.items() if name not in before or not _equal(v, before[name])}
    for name, value in attributes(config).items():
        new = name not in before or not _equal(value, before[name])
        if new and name in told and not _equal(told[name], value):
            raise ValueError(
                f"the config was told two values of {name!r}: {value!r} as an attribute, {told[name]!r} as an entry; set one"
            )
        told.update({name: value} if new else {})
    return told


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    plain = type(a) is type(b) and not hasattr(a, "shape")
    return bool(a == b) if plain else bool(np.array_equal(np.asarray(a, object), np.asarray(b, object)))
