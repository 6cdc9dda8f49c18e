"""Shared by all tests: torch keeps to one thread, examples repeat, long files come first."""

import gc
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest
import torch
from collecting import IMPORTED, SLOW
from hypothesis import settings
from places import TESTS

torch.set_num_threads(1)
logging.raiseExceptions = False  # diffusers logs to the stderr of the test that imported it, closed when that ends
# The same examples in every run, so that a failure is that of a change; `--hypothesis-profile=default` draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

# Few tests and long ones. With -n, files with few tests would come last, one process would go on with them alone.
LONGEST = (
    "house/test_readme.py",
    "eval/test_peers.py",
    "samplers/solvers/test_sde.py",
    "samplers/learned/test_demo.py",
    "samplers/solvers/test_order.py",
    "eval/test_collect.py",
    "house/test_examples.py",
    "samplers/learned/test_auto.py",
)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist is there
        config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    thin_out(items)
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="torch sees no GPU"))
    items.sort(key=lambda item: item.path.relative_to(TESTS).as_posix() not in LONGEST)


def thin_out(items: list[pytest.Item]) -> None:
    """Of a test marked `one_in(n)`, every n-th case by default; `-m slow` runs the others."""
    cases: dict[str, int] = {}
    for item in items:
        mark = item.get_closest_marker("one_in")
        if mark is None or item.get_closest_marker("slow") is not None:
            continue
        test = item.nodeid.partition("[")[0]
        cases[test] = cases.get(test, -1) + 1
        if cases[test] % mark.args[0]:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Keep which modules of tests import something slow, for house/test_collecting.py."""
    before = SLOW & sys.modules.keys()
    report = yield
    for name in (SLOW & sys.modules.keys()) - before:
        collector.config.stash.setdefault(IMPORTED, {})[name] = collector.nodeid
    return report


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Nearly all that collecting makes stays: looking for garbage in between takes a quarter of its time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()  # nor is it looked at again during the tests
        gc.enable()


@pytest.fixture
def quiet() -> Iterator[None]:
    """Without what diffusers logs and warns of while its classes are made and run."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)
