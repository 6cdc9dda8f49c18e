"""Which solver a config gets that names none: its own, where it was made for one, else what errs least on such steps."""

from __future__ import annotations

from typing import Any

from fewstep.samplers.config.classes import explicit, kind_of
from fewstep.samplers.config.distilled import own_solver
from fewstep.samplers.config.known_classes import Config
from fewstep.samplers.config.sigma_maps import sigma_map_of


def default_solver(config: Config) -> tuple[str, dict[str, Any]]:
    """(solver, options).

    Measured on published configs at 4 to 30 evaluations and three mixtures (`python tests/benchmarks/real_configs.py`), as
    error over that of ddim: on steps even in time, of VP tables and flows, `deis` errs least almost everywhere; on Karras'
    and other maps of sigma, of EDM, VE and angles, `unipc`.
    """
    if (own := own_solver(config)) is not None:
        return own
    mapped = kind_of(config) in ("edm", "ve", "angle") or sigma_map_of(explicit(config)) is not None
    return ("unipc" if mapped else "deis"), {}
