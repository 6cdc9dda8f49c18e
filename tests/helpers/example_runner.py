"""Runs an example of the checkout as its reader would."""

from __future__ import annotations

import importlib.util

from click.testing import CliRunner
from places import EXAMPLES


def run(name: str, *arguments: object) -> str:
    """The output of an example's command."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = CliRunner().invoke(module.main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output
