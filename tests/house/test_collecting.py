"""Collecting the tests stays quick: what takes seconds to import waits for a test that uses it."""

import pytest
from collecting import IMPORTED


def test_collecting_imports_nothing_slow(request: pytest.FixtureRequest) -> None:
    """`from late import diffusers` and `fewstep.Scheduler` in place of `from fewstep import Scheduler` keep it so."""
    assert request.config.stash.get(IMPORTED, {}) == {}
