"""The table that a call of `sample` asks for: compiled for the denoiser's schedule, as it is, or out of an artefact."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.choosing import Named, chosen
from fewstep.samplers.building.compiling import build
from fewstep.samplers.run.checks import require_scores, validate_place
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.table.tableau import Tableau
from fewstep.samplers.validity.bound_weights import meet_bound
from fewstep.samplers.validity.domain import checked_policy, departures, meet


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
        table = build(plays.entry, denoiser.schedule, **{**spec, "nfe": nfe, "grid": grid}, **options)
        require_scores(table, denoiser)
        meet_bound(denoiser.fn, table)
        return table
    if any(given is not None for given in spec.values()) or options:
        raise ValueError("a Tableau is already compiled: pass nfe, grid, t_start, t_end and options to build() instead")
    validate_place(plays, denoiser)
    meet_bound(denoiser.fn, plays)
    return plays


def learned_table(
    denoiser: Denoiser,
    artefact: Artefact,
    x: Tensor,
    nfe: int | None,
    guidance: float | None,
    policy: str | None = None,
) -> Tableau:
    """The table of an artefact for this model and what is known of its call, met as the policy says."""
    policy = checked_policy(policy)
    seen = {**denoiser.told(), "dtype": str(x.dtype).removeprefix("torch."), "shape": x.shape[1:]}
    own = (seen.get("guidance") or {}).get("guidance_scale")
    outside = "error"
    wanted = guidance if own is None else float(own)
    if policy == "nearest" and artefact.guidances and wanted is not None:
        guidance, outside = artefact.nearest(wanted), "clamp"
    model: dict[str, Any] = {"schedule": denoiser.schedule, "prediction": denoiser.prediction}
    if policy == "refuse":
        seen |= denoiser.told(weights=True)
        meet(departures(artefact.domain(guidance), seen), policy)
    table = artefact.table(nfe, guidance, shape=x.shape[1:], outside=outside, **model)
    del seen["shape"]  # of which the artefact has told
    meet(departures(artefact.domain(guidance), seen), policy)
    meet_bound(denoiser.fn, table)
    return table
