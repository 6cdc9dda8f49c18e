"""Names that are imported on first use: public ones, so that importing a package stays cheap, and doors upwards."""

from __future__ import annotations

import builtins
import sys
from importlib import import_module

TYPE_CHECKING = False  # known to type checkers by its name; `import fewstep` does not pay for the module typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

HIDDEN = ("SchedulerMixin",)  # there for others, not public


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
            from fewstep.extras import explained

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
