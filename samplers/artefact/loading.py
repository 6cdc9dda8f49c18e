"""Saved tables and learned artefacts by what names them: a path, "demo", plain JSON, or themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fewstep.demo.folder import FOLDER
from fewstep.samplers.artefact import file
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.held import Held
from fewstep.samplers.table import stored
from fewstep.samplers.table.jsonfile import read
from fewstep.samplers.table.tableau import Tableau


def load(path: str | os.PathLike[str]) -> Tableau | Artefact:
    """Read a table or a learned artefact, each written by its `save`, proving its rows again.

    Raises:
        ValueError: neither, written by a newer version, damaged, or rows that are not consistent.
        FileNotFoundError: no file.
    """
    return loaded(read(path), path)


def loaded(content: Mapping[str, Any], name: Any) -> Tableau | Artefact:
    """The table or artefact whose JSON was read from `name`."""
    if content.get("format") == file.FORMAT:
        return Artefact.of_content(content, name)
    return stored.from_dict(content, name)


def as_artefact(learned: Any) -> Artefact:
    """An Artefact from itself, from the path of a saved one ("demo": the embedded one), or from its `to_dict`.

    Raises:
        ValueError: anything else.
    """
    found = learned.made if isinstance(learned, Held) else learned
    if learned == "demo":
        return load_demo_artefact()
    if isinstance(learned, str | os.PathLike):
        if not os.path.isfile(learned):
            raise ValueError(f"`learned` is no artefact's path: there is no file {os.fspath(learned)!r}")
        found = load(learned)
    elif isinstance(learned, Mapping) and not isinstance(learned, Held):
        found = loaded(learned, "the artefact")
    if isinstance(found, Tableau):
        name = os.fspath(learned) if isinstance(learned, str | os.PathLike) else f"table {found.name!r}"
        raise ValueError(f"{name} is a saved table, not a learned artefact: give it as the solver (solver=, --solver)")
    if not isinstance(found, Artefact):
        raise ValueError(f"`learned` must be an Artefact or the path of a saved one; got {type(learned).__name__}")
    return found


def load_demo_artefact(guidance: float | None = None) -> Artefact:
    """Learned tables for the embedded digits, made by `fewstep learn demo`: 3 to 10 evaluations, or 5 and 8 with guidance 3.

        x0 = sample(denoiser, x_T, load_demo_artefact(), nfe=5)

    Raises:
        ValueError: another guidance than None and 3.
    """
    names = {None: "learned.json", 3.0: "learned-guidance3.json"}
    if guidance not in names:
        raise ValueError(f"there are artefacts for no guidance (None) and for guidance 3; got guidance {guidance!r}")
    return Artefact.load(FOLDER / names[guidance])
