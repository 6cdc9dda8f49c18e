"""Modules that take seconds to import, imported when a test first asks for something of them: collecting asks for nothing."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Late:
    """A module by its name."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest asks everything in a module for its marks
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)

    def __dir__(self) -> list[str]:
        return dir(import_module(self._name))


diffusers = Late("diffusers")
