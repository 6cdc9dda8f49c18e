"""Names that are imported on first use: public ones, so that importing a package stays cheap, and doors upwards."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """`__getattr__` of a package: public name -> its value in the module that `names` tells, kept once it was asked for."""

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(names[name], package)
        value = module if names[name].rpartition(".")[2] == name else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return find


def door(path: str) -> Any:
    """What "package.module:name" means, imported now: for a convenience on a lower floor that stands on a higher one.

    Every door is listed in tests/house/test_architecture.py.
    """
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
