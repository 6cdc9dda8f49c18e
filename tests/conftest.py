"""Shared by all tests: `from problems import ...` works from any of them, torch keeps to one thread, examples repeat."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent / "helpers"))
torch.set_num_threads(1)
# The same examples in every run, so that a failure is that of a change; `--hypothesis-profile=default` draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

# Few tests and long ones. With -n, files with few tests would come last, one process would go on with them alone.
LONGEST = ("readme", "eval_peers", "sde", "learned_demo", "order", "eval_collect", "examples", "learned_auto")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist is there
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)
