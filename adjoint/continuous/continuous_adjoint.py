"""The continuous adjoints: the differential equation of the gradient, solved back along the sample's path.

    dp/drho = -alpha (d eps/dx)^T p,     p = alpha dL/dx,     dL/dc = int (d eps/dc)^T p d(-rho)

They are approximate, and kept for comparison: `method="checkpoint"` has the exact gradient at the same cost. The rules are in
`plan.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from fewstep.adjoint.continuous.going_back import Continuous, Course, bind, path
from fewstep.adjoint.continuous.plan import RULES, Rule, boundaries, make_plan
from fewstep.adjoint.exact.rows import Rows
from fewstep.checks import unknown
from fewstep.samplers.run.step import State
from fewstep.samplers.table.tableau import Tableau

OPTIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "adjoint_dpm": {"rk": ("rk4", *RULES[:-1]), "states": ("stored", "reintegrated")},
    "adjoint_deis": {
        "order": (2, 1, "2s"),
        "form": ("phi", "half"),
        "states": ("stored", "reintegrated"),
        "noise": (None,),
    },
}
FEW, COARSE = 20, 0.6
EXACT = 'method="checkpoint" is exact at the same cost'


def check_options(
    method: str,
    options: Mapping[str, Any],
    tableau: Tableau,
    *,
    z: Tensor | None = None,
    free: bool = False,
    last: Any = None,
    slots: Any = None,
) -> Rule:
    """The rule of a method's options, first values of OPTIONS where not given; to be called before any network call.

    Warns where the table has so few evaluations that the gradient cannot be accurate.

    Raises:
        ValueError: unknown options; gradients to noises or coefficients; tables that follow no differential equation.
    """
    known = OPTIONS[method]
    for name, value in options.items():
        if name not in known:
            raise unknown(f"option of {method}", name, known)
        if name != "noise" and not any(value == v and type(value) is type(v) for v in known[name]):
            raise ValueError(f"{method}: `{name}` must be one of {', '.join(map(repr, known[name]))}; got {value!r}")
    given = {name: values[0] for name, values in known.items()} | dict(options)
    if "form" in options and given["order"] != 2:
        raise ValueError(f"{method}: `form` belongs to order=2; got it with order={given['order']!r}")
    if given.get("noise") is not None and not (callable(given["noise"]) and given["states"] == "reintegrated"):
        raise ValueError(
            f'{method}: `noise` is a source, noise(draw, like) -> z, for states="reintegrated", which solves the path back '
            f"with it; got {given['noise']!r} with states={given['states']!r}"
        )
    _check_use(method, z, free, last, slots)
    _check_table(method, tableau)
    rule = Rule(_kind(method, given), given["states"] == "stored")
    make_plan(rule, tableau)
    _warn(method, rule, tableau)
    return rule


def _warn(method: str, rule: Rule, tableau: Tableau) -> None:
    """UserWarning where steps are too coarse for the gradient, which depends on rho alone above sigma = alpha."""
    lam = tableau.nodes.lam[boundaries(tableau)]
    h = max((t - s for s, t in pairwise(lam) if -np.inf < s < 0), default=0.0)
    why = f"{tableau.nfe} evaluations, fewer than about {FEW}" if tableau.nfe < FEW else ""
    if not why and h > COARSE and rule.kind != "rk4":
        why = f"steps of {h:.2f} in lam at the noise end, longer than about {COARSE} (a flow's own grid has them at any nfe)"
    if why:
        warnings.warn(f"the gradient of {method} is not accurate with {why}: {EXACT}", stacklevel=4)


def _kind(method: str, given: Mapping[str, Any]) -> str:
    """The rule that options name."""
    if method == "adjoint_dpm":
        return str(given["rk"])
    return {1: "euler", 2: given["form"], "2s": "2s"}[given["order"]]


def _check_use(method: str, z: Tensor | None, free: bool, last: Any, slots: Any) -> None:
    """ValueError for what a continuous adjoint has no equation for."""
    what = {
        "`z` that requires a gradient": z is not None and z.requires_grad,
        "a Free table": free,
        "`last`": last is not None,
        "`slots`": slots is not None,
    }
    for name, present in what.items():
        if present:
            raise ValueError(
                f"{method} has gradients to x_T and to what the network uses, not {name}: {EXACT}, and has them"
            )


def _check_table(method: str, tableau: Tableau) -> None:
    """ValueError for a table whose steps are not those of one differential equation."""
    lam = tableau.nodes.lam[boundaries(tableau)]
    if not np.all(lam[1:] > lam[:-1]):
        raise ValueError(
            f"{method}: {tableau.name} goes back to noise on its way, which has no continuous adjoint: {EXACT}"
        )
    if tableau.filters is not None:
        raise ValueError(f"{method}: filters of {tableau.name} are part of no differential equation: {EXACT}")
    if tableau.stochastic and (method == "adjoint_dpm" or tableau.elementwise):
        raise ValueError(
            f"{tableau.name} draws noise, and {method} goes back along a flow without: take adjoint_deis, or better "
            'method="checkpoint", which is exact'
        )


def continuous(
    run: Any,
    rows: Rows,
    state: State,
    find: Callable[[], tuple[Tensor, ...]],
    method: str,
    options: Mapping[str, Any],
    accumulate: bool = False,
) -> Tensor:
    """The sample that the rows lead to, with a continuous adjoint for its gradient.

    Args:
        run: has denoiser, tableau, source (its noise), mu and post. rows, state: all rows of the table and the state before
            the first. find: tells, once the rows have been played, what gradients go to beside the state. accumulate: add
            those to .grad as they come.
        method: "adjoint_dpm" with rk="rk4" (4 calls a step), "midpoint" (2) or "euler" (1), for ODEs;
            "adjoint_deis" with order=2 (a multistep, 1 call a step; form="phi" exact weights, "half" the published ones), 1, or
            "2s" (2 calls a step), for ODEs and, at order 1 in the strong sense, for SDEs.
        options: also states="stored": every step starts from the sample's own state, one latent a step; "reintegrated": the
            states are solved back from the end too, two latents; far less accurate for SDEs, which meet the noise of the
            sample again. noise: another source for that.

    Returns:
        (B, *shape). Its gradient is that of the differential equation up to O(h^order), not that of the sample.

    Cost: rows' calls, and on the way back one call with its vector-Jacobian product a step, times those of the rule.

    References: AdjointDPM: Adjoint Sensitivity Method for Gradient Backpropagation of Diffusion Probabilistic Models; Pan,
    Liew, Tan, Feng, Yan; 2024; arXiv:2307.10711. AdjointDEIS: Efficient Gradients for Diffusion Models; Blasingame, Liu; 2024;
    arXiv:2405.15020.
    """
    given = {name: values[0] for name, values in OPTIONS[method].items()} | dict(options)
    plan = make_plan(Rule(_kind(method, given), given["states"] == "stored"), run.tableau)
    network, x = rows.network, state.input
    mu = None if run.mu is None else run.mu.to(x)
    points = bind(plan.points, run, network, x, mu)
    played = path(rows, state, plan.keeps)
    leaves = find()
    course = Course(
        plan,
        points,
        network,
        given.get("noise") or run.source,
        mu,
        leaves,
        tuple(t._version for t in leaves),
        accumulate,
    )
    found: Tensor = Continuous.apply(course, played, x, *leaves)  # type: ignore[no-untyped-call]
    return found
