"""CFG++ steps that remember outputs are the loops of user interfaces, in their variables: x / alpha, on flows x itself."""

from __future__ import annotations

from math import expm1, log
from typing import Any

import pytest
import torch
from classes import EDM, FLOW, VP, X, pair
from torch import Tensor

from fewstep import sample
from fewstep.samplers import build, guidance

SCALE, GAMMA = 0.8, 1.7


def loop(step: str, table: Any, c: Any, u: Any, x: Tensor) -> Tensor:
    """The published loop along the boundaries of a table."""
    flow = table.schedule.kind == "flow"
    size = [1.0 if flow else float(a) for a in table.nodes.alpha]
    level = [float(s) / a for s, a in zip(table.nodes.sigma, size, strict=True)]
    y, old = x / size[0], None

    def ask(y: Tensor, k: int) -> tuple[Tensor, Tensor]:
        t = float(table.times[k])
        D_u = u.x0(size[k] * y, t)
        return D_u, D_u + SCALE * (c.x0(size[k] * y, t) - D_u)

    k = 0
    for calls in table.groups:
        a, b = level[k], level[k + calls]
        D_u, D_w = ask(y, k)
        d = (y - D_u) / a
        if b == 0:
            y = D_w
        elif calls == 2:
            half = (level[k + 1] / a) * (y + D_w - D_u) + (1 - level[k + 1] / a) * D_w
            late_u, late_w = ask(half, k + 1)
            y = (b / a) * (y + D_w - late_u) + (1 - b / a) * late_w
        elif step == "dpmpp_2m":
            new = D_w + (b / a) * (y - D_u)
            if old is not None:
                r = log(old[2] / a) / log(a / b)
                new = new + (1 - b / a) / (2 * r) * (D_w - old[0])
            y = new
        elif step == "gradient_estimation":
            new = D_w + b * d
            if old is not None:
                new = new + (GAMMA - 1) * (d - old[1]) * (b - a)
            y = new
        elif old is None or step == "dpmpp_2s":
            y = D_w + b * d
        else:
            h, c2 = log(a / b), -log(old[2] / a) / log(a / b)
            phi1 = -expm1(-h) / h
            b2 = (1 - phi1) / h / c2
            y = (b / a) * (y + D_w - D_u) + h * ((phi1 - b2) * D_u + b2 * old[0])
        old, k = (D_u, d, a), k + calls
    return y * size[-1]


PAIRS = [
    (s, k) for s in ("dpmpp_2m", "res_multistep", "gradient_estimation", "dpmpp_2s") for k in ("edm", "vp", "flow")
]
PAIRS.remove(("dpmpp_2s", "flow"))  # there the interfaces' middle is that of another half log-SNR


@pytest.mark.parametrize(("step", "kind"), PAIRS)
def test_the_published_loop(step: str, kind: str) -> None:
    schedule, prediction = {"edm": (EDM, "epsilon"), "vp": (VP, "v_prediction"), "flow": (FLOW, "flow_prediction")}[
        kind
    ]
    c, u = pair(schedule, prediction)
    solver, nfe = ("dpmpp_2s_ancestral", 11) if step == "dpmpp_2s" else ("euler", 8)
    table = build(solver, schedule, nfe, "logsnr", t_start=0.9 * schedule.t_max, **{"eta": 0.0} if nfe == 11 else {})
    guided = guidance.cfg_pp(c, u, SCALE, step=step, gamma=GAMMA)
    start = X * float((schedule.alpha(table.times[0]) ** 2 + schedule.sigma(table.times[0]) ** 2) ** 0.5)
    wanted = loop(step, table, c, u, start)
    for _ in range(2):  # what is remembered belongs to a run
        torch.testing.assert_close(sample(guided, start, table), wanted, rtol=1e-9, atol=1e-9)


def test_with_noise_the_length_of_a_step_is_that_of_its_way_down() -> None:
    """Where both branches are equal, cfg_pp on `euler_ancestral` is the solver of that name."""
    c, _ = pair(EDM, "sample")
    guided = guidance.cfg_pp(c, c, SCALE, step="res_multistep")
    solvers = ((guided, "euler_ancestral"), (c, "res_multistep_ancestral"))
    seeds = range(len(X))
    got, want = (sample(d, 80.0 * X, s, 8, noise_seeds=seeds, limiter=False) for d, s in solvers)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_pure_noise_and_bad_input() -> None:
    c, u = pair(FLOW, "flow_prediction")
    assert bool(sample(guidance.cfg_pp(c, u, step="dpmpp_2m"), X, "euler", 6).isfinite().all())
    with pytest.raises(ValueError, match="Did you mean 'dpmpp_2m'"):
        guidance.cfg_pp(c, u, step="dpmpp_3m")
    with pytest.raises(ValueError, match="play it with solver='euler'"):
        sample(guidance.cfg_pp(c, u, step="dpmpp_2m"), X, "dpmpp_2m", 6)
    with pytest.raises(ValueError, match="needs the rows of a run"):
        guidance.cfg_pp(c, u, step="dpmpp_2m").x0(X, 0.5)
