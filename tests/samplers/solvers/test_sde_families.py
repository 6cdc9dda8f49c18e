"""The stochastic families beside each other: one table under two names, singular ends, weak order of options, bad options."""

from __future__ import annotations

from math import exp, log, sqrt
from typing import Any

import affine
import numpy as np
import pytest
import torch
from paths import FULL, close, everywhere, path, run
from problems import Mixture, in_turn, starts
from torch import Tensor

from fewstep.samplers import Denoiser, NoiseSchedule, build, sample
from fewstep.samplers.building.resuming import resume

VP = NoiseSchedule.vp_linear()


@everywhere
def test_tables_that_are_one_table(kind: str) -> None:
    schedule, times, _ = path(kind)

    def lines(name: str, **options: Any) -> np.ndarray:
        return build(name, schedule, None, times, **options, limiter=False).W[:, 1]

    def both(name: str, **options: Any) -> np.ndarray:
        return build(name, schedule, None, times, **options, limiter=False).W

    always: dict[str, Any] = {"tau_interval": None, **FULL}
    first = lines("ddim", eta=1.0)
    for name, options in {
        "ddpm": {}, "er_sde": {"order": 1, "phi": "sde"}, "seeds": {"order": 1, "form": "x0"},
        "sa_solver": {"predictor_order": 1, "corrector_order": 0, **always},
    }.items():  # fmt: skip
        close(lines(name, **options), first)
    close(lines("seeds", order=1), lines("sde_dpm", order=1))
    root = {"predictor_order": 1, "corrector_order": 0, "tau": sqrt(0.5), **always}
    close(lines("er_sde", order=1, phi="power1.5"), lines("sa_solver", **root))
    close(lines("er_sde", order=1, phi="ode"), lines("ddim"))
    for p, twin in ((2, "dpmpp_2m_sde"), (3, "dpmpp_3m_sde")):
        variant = {"variant": "heun" if p == 2 else "exact", "tau": 0.6, **FULL}
        predictor = {"predictor_order": p, "corrector_order": 0, "tau": 0.6, **always}
        close(lines("sa_solver", **predictor), lines(twin, **variant))
    for p in (1, 2, 3, 4):
        quiet = {"predictor_order": p, "tau": 0.0, **FULL}
        close(lines("sa_solver", corrector_order=0, **quiet), lines("abnorsett", order=p, **FULL))
        if p < 4:
            corrected = both("unipc", order=p, weights="exact", **FULL)
            close(both("sa_solver", corrector_order=p + 1, **quiet)[:-1], corrected[:-1])
    for p in (2, 3):
        close(lines("seeds", order=p, tau=0.0), lines(f"dpm_{p}"))
        close(lines("seeds", order=p, tau=0.0, form="x0"), lines(f"dpmpp_{p}s"))
    close(run(kind, "flow_sde", scale=0.0), run(kind, "ddim"))


def test_every_noise_is_drawn_once() -> None:
    """Predictor, corrector and stages share their noise through `carry`; spans join to one path in lam."""
    for name, options in {
        "sa_solver": {"tau_interval": None}, "seeds": {"order": 3}, "er_sde": {}, "ddpm": {}, "flow_sde": {},
    }.items():  # fmt: skip
        table = build(name, VP, 12, **options)
        spans = [draw[2:4] for row in range(12) for draw in table.draws(row)]
        assert len(spans) == 12
        assert all(a[1] == pytest.approx(b[0]) and a[0] < a[1] for a, b in zip(spans, spans[1:], strict=False))


LAW = VP.alpha(np.arange(1, 100) / 100) ** 2
SINGULAR = {
    "vp": VP,
    "discrete": NoiseSchedule.discrete(LAW),
    "zero-snr": NoiseSchedule.discrete(np.append(LAW, 0.0)),
    "ve": NoiseSchedule.ve(0.01, 50.0),
    "edm": NoiseSchedule.edm(),
    "flow": NoiseSchedule.flow(),
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("euler_maruyama", {}), ("reverse_diffusion", {"tau": 0.5}), ("ddpm", {"variance": "large"}),
    ("flow_sde", {}), ("flow_sde", {"w": "g2"}), ("flow_sde", {"w": 1.0}), ("er_sde", {}), ("er_sde", {"phi": "log"}),
    ("er_sde", {"phi": "ode", "order": 2}), ("er_sde", {"phi": lambda u: u * exp(u**0.3)}), ("sa_solver", {}),
    ("sa_solver", {"tau_interval": None}), ("sa_solver", {"tau_interval": None, "form": "eps"}),
    ("sa_solver", {"pece": True, "tau_interval": None}), ("sa_solver", {"tau": 10.0, "tau_interval": None}),
    ("seeds", {}), ("seeds", {"order": 3}), ("seeds", {"order": 3, "form": "x0", "tau": 10.0}),
]  # fmt: skip


@pytest.mark.parametrize(("case", "kind"), in_turn(CASES, SINGULAR))
def test_any_number_of_evaluations_from_any_start_to_any_end(case: tuple[str, dict[str, Any]], kind: str) -> None:
    name, options = case
    schedule = SINGULAR[kind]
    x = starts(schedule, float(schedule.t_max), 4)
    for nfe in (1, 2, 3, 4, 7, 12):
        denoiser = Mixture().denoiser(schedule, "flow_prediction")
        result = sample(denoiser, x, name, nfe, noise_seeds=[1, 2, 3, 4], **options)
        assert denoiser.nfe == nfe and torch.isfinite(result).all()
        table = build(name, schedule, nfe, **options)
        if table.nodes.sigma[-1] == 0:
            assert not table.draws(nfe - 1), "noise was added to data"


@pytest.mark.parametrize(("name", "options"), [("sa_solver", {"pece": True}), ("seeds", {"order": 3}), ("er_sde", {})])
def test_a_run_may_be_resumed_at_any_call(name: str, options: dict[str, Any]) -> None:
    table, denoiser = build(name, VP, 9, **options), Mixture().denoiser(VP)
    for begin in range(1, 9):
        rest = resume(table, begin)
        assert rest.nfe == 9 - begin and rest.times[-1] == table.times[-1]
        x = starts(VP, float(rest.times[0]), 2)
        assert torch.isfinite(sample(denoiser, x, rest, noise_seeds=[1, 2])).all()


def test_out_of_pure_noise_all_noise_is_drawn_anew() -> None:
    for name, options in {
        "euler_maruyama": {}, "reverse_diffusion": {}, "ddpm": {}, "er_sde": {}, "seeds": {}, "flow_sde": {"w": "g2"},
        "sa_solver": {"tau_interval": None},
    }.items():  # fmt: skip
        table = build(name, SINGULAR["zero-snr"], 10, **options)
        line, t = table.W[0, 1], 1
        assert line[:2].tolist() == [0.0, 0.0]
        assert line[2] == pytest.approx(table.nodes.alpha[t]) and line[-table.slots] == pytest.approx(
            table.nodes.sigma[t]
        )


WEAK = [
    ("euler_maruyama", {"tau": 0.5}, 1), ("reverse_diffusion", {"tau": 0.5}, 1), ("ddpm", {"variance": "large"}, 1),
    *[("flow_sde", {"w": w}, 1) for w in ("sin2", "g2")],
    *[("er_sde", {"order": p, "phi": phi}, min(p, 2)) for p in (1, 2) for phi in ("sde", "power1.5", "log")],
    *[("er_sde", {"phi": phi}, 2) for phi in ("sde", "power2.5")],
    *[("er_sde", {"order": p, "phi": "ode", **FULL}, p) for p in (1, 2, 3)],
    ("er_sde", {"phi": "ode", "variant": "public"}, 2),
    *[("sa_solver", {"predictor_order": p, "corrector_order": q, "tau": tau, "tau_interval": None, **FULL}, order)
      for p, q, tau, order in ((1, 0, 1.0, 1), (2, 0, 1.0, 2), (3, 0, 1.0, 2), (1, 2, 1.0, 2), (3, 4, 1.0, 2),
                               (1, 1, 1.0, 1), (2, 0, 0.3, 2), (2, 0, 0.0, 2), (1, 2, 0.0, 2), (3, 4, 0.0, 4))],
    ("sa_solver", {"few_step": True, "predictor_order": 2, "corrector_order": 2}, 2), ("sa_solver", {"form": "eps"}, 2),
    ("sa_solver", {"pece": True, "tau_interval": None}, 2), ("sa_solver", {"tau": lambda t: 0.5 + t}, 2),
    ("seeds", {"form": "x0"}, 2), ("seeds", {"form": "x0", "order": 1}, 1), ("seeds", {"order": 3}, 2),
    ("seeds", {"order": 3, "tau": 0.0}, 3), ("seeds", {"order": 2, "tau": 0.5, "form": "x0"}, 2),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "order"), WEAK, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(WEAK)])
def test_weak_order_of_options(name: str, options: dict[str, Any], order: int) -> None:
    """Errors of the deviation between 96 and 384 steps; the declared order follows the options."""
    calls = 2 if options.get("pece") else options.get("order", 2) if name == "seeds" else 1
    tables = [build(name, VP, n * calls, "logsnr", **options) for n in (96, 384)]
    coarse, fine = (affine.errors(table)[1] for table in tables)
    assert tables[0].order == order
    assert log(coarse / fine) / log(4) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("euler_maruyama", {"tau": -1}, "`tau` must be 0..10; got -1"),
        ("reverse_diffusion", {"tau": 11.0}, "`tau` must be 0..10; got 11"),
        ("ddpm", {"variance": "learned"}, "`variance` must be one of 'small', 'large'.*got 'learned'"),
        ("flow_sde", {"w": "g"}, "`w` must be one of 't', 'sin2', 'g2', 'grpo', 'cps'; got 'g'"),
        ("flow_sde", {"w": lambda t: -t}, "`w` must be finite and at least 0"),
        ("flow_sde", {"scale": -1}, "`scale` must be"),
        ("er_sde", {"phi": "sde6"}, "`phi` must be one of 'ode', .*; got 'sde6'"),
        ("er_sde", {"phi": lambda u: -u}, "`phi` must be above 0"),
        ("er_sde", {"phi": lambda u: u**0.5}, "`phi` takes noise away: .* Named scales: ode"),
        ("er_sde", {"order": 4}, "`order` must be 1..3; got 4"),
        ("sa_solver", {"tau": -0.1}, "`tau` must be 0..10; got -0.1"),
        ("sa_solver", {"tau": lambda t: -t}, r"`tau\(1\)` must be 0..10; got -1"),
        ("sa_solver", {"tau_interval": (0.8, 0.2)}, "`tau_interval` must be two times, 0 <= low < high <= 1"),
        ("sa_solver", {"tau_interval": (200, 800)}, "`tau_interval` must be 0..1; got 200"),
        ("sa_solver", {"predictor_order": 5}, "`predictor_order` must be 1..4; got 5"),
        ("sa_solver", {"corrector_order": -1}, "`corrector_order` must be 0..4; got -1"),
        ("sa_solver", {"pece": True, "corrector_order": 0}, "`pece` .* expected 1..4"),
        ("seeds", {"order": 0}, "`order` must be 1..3; got 0"),
        ("seeds", {"form": "v"}, "`form` must be one of 'x0', 'eps'; got 'v'"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    def fn(x: Tensor, tau: Tensor) -> Tensor:
        raise AssertionError("the network was asked")

    with pytest.raises(ValueError, match=f"{name}: {message}"):
        sample(Denoiser(fn, VP, "sample"), torch.zeros(1, 2), name, 5, **options)
