"""Optional parts: which packages they need, and the sentence that names the extra where one is missing.

The core (schedules, grids, solvers, tables, `sample`, `build`) needs torch, numpy, safetensors and tqdm alone.
"""

from __future__ import annotations

from contextlib import contextmanager

TYPE_CHECKING = False  # known to type checkers by its name; `import fewstep` does not pay for the module typing
if TYPE_CHECKING:
    from collections.abc import Iterator

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
