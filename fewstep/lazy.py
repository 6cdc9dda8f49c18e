"""What is imported on first use: public names, so that importing a package stays cheap, doors upwards, optional packages.

The core (schedules, grids, solvers, tables, `sample`, `build`) needs torch, numpy, safetensors and tqdm alone. What an
optional part misses is named with the extra that brings it.
"""

from __future__ import annotations

import builtins
import sys
from contextlib import contextmanager
from importlib import import_module

TYPE_CHECKING = False  # known to type checkers by its name; `import fewstep` does not pay for the module typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

HIDDEN = ("SchedulerMixin",)  # there for others, not public
EXTRA_OF = {  # package as it is imported -> the extra that brings it, as pyproject.toml says
    "diffusers": "diffusers",
    "accelerate": "diffusers",
    "scipy": "diffusers",
    "torchvision": "eval",
    "PIL": "eval",
    "matplotlib": "plots",
    "jinja2": "plots",
    "click": "cli",
}


def face(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package, from the stub beside its `__init__.py`.

    The stub says `from MODULE import NAME as NAME` for every public name, so that type checkers and editors see the real
    types; a name is imported when it is first asked for. `__all__` leaves out what would hide a built-in function.
    """
    names: dict[str, str] = {}
    with open(file.removesuffix(".py") + ".pyi", encoding="utf-8") as stub:
        for line in stub:
            if line.startswith("from "):
                _, module, _, name, *_ = line.split()
                names[name] = module

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = import_module(f"{package}.{name}" if names[name] == package else names[name])
        except ModuleNotFoundError as error:
            raise explained(error, f"{package}.{name}") from error
        value = module if names[name] == package else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    public = [name for name in names if not hasattr(builtins, name) and name not in HIDDEN]
    return find, lambda: sorted({*names, *vars(sys.modules[package])}), public


def door(path: str) -> Any:
    """What "package.module:name" means, imported now: for a convenience on a lower floor that stands on a higher one.

    Every door is listed in tests/house/test_architecture.py.
    """
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def explained(error: ModuleNotFoundError, what: str = "this") -> ModuleNotFoundError:
    """The same error with a sentence that says what to install; the error itself where it is of no optional part."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF:
        return error
    said = (
        f"{what} needs {package}, which is not installed: pip install 'fewstep[{EXTRA_OF[package]}]', or fewstep[all]"
    )
    return ModuleNotFoundError(said, name=error.name)


@contextmanager
def optional(what: str) -> Iterator[None]:
    """Around imports of an optional package: what is missing is named with the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise explained(error, what) from error
