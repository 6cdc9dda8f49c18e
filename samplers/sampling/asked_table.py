"""The table that a call of `sample` asks for: compiled for the denoiser's schedule, as it is, or out of an artefact."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.choosing import Named, chosen
from fewstep.samplers.building.compiling import build
from fewstep.samplers.run.checks import validate_place
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.table.tableau import Tableau


def table_for(denoiser: Denoiser, solver: Any, spec: dict[str, Any], options: dict[str, Any]) -> Tableau:
    """The table of a solver by name, of a function, or of a file, on the denoiser's schedule; a Tableau as it is.

    spec: nfe, grid, t_start, t_end as `sample` was given them; None for what was not.
    """
    plays = chosen(solver)
    if isinstance(plays, Artefact):
        raise ValueError(
            "a learned artefact has a table for each nfe and guidance: take one, artefact.table(nfe, guidance)"
        )
    if isinstance(plays, Named):
        nfe = 10 if spec["nfe"] is None and spec["grid"] is None else spec["nfe"]
        grid = plays.grid if spec["grid"] is None else spec["grid"]
        return build(plays.entry, denoiser.schedule, **{**spec, "nfe": nfe, "grid": grid}, **options)
    if any(given is not None for given in spec.values()) or options:
        raise ValueError("a Tableau is already compiled: pass nfe, grid, t_start, t_end and options to build() instead")
    validate_place(plays, denoiser)
    return plays


def learned_table(
    denoiser: Denoiser, artefact: Artefact, x: Tensor, nfe: int | None, guidance: float | None
) -> Tableau:
    """The table of an artefact for this model."""
    model: dict[str, Any] = {"schedule": denoiser.schedule, "prediction": denoiser.prediction}
    return artefact.table(nfe, guidance, shape=x.shape[1:], **model)
