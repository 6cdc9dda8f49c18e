"""Modules that take seconds to import, imported when a test first asks for something of them: collecting asks for nothing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest


class Late:
    """A module by its name. A test that asks for a class which the installed release does not have is skipped."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest asks everything in a module for its marks
            raise AttributeError(attribute)
        module = import_module(self._name)
        if attribute[0].isupper() and not hasattr(module, attribute):
            pytest.skip(f"{self._name} {module.__version__} has no {attribute}", allow_module_level=True)
        return getattr(module, attribute)

    def has(self, attribute: str) -> bool:
        """Whether the installed release has it."""
        return hasattr(import_module(self._name), attribute)

    def __dir__(self) -> list[str]:
        return dir(import_module(self._name))


diffusers = Late("diffusers")
