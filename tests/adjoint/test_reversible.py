"""Reversible solvers: their orders, and the way back through any table that has one, derived from its rows."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import affine
import numpy as np
import pytest
import torch
from pipelike import distance
from problems import Mixture, in_turn, starts
from torch import Tensor

from fewstep.adjoint.exact.inverse_rows import Block, blocks
from fewstep.adjoint.exact.rounding_growth import amplification, check_growth
from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, NoiseSource, Tableau, build, sample
from fewstep.samplers.building.resuming import resume
from fewstep.samplers.run.step import State, first_state
from fewstep.samplers.schedule.base import Nodes
from fewstep.samplers.schedule.outputs import convert, mean_weight
from fewstep.samplers.table.row import CARRY, CONST, INPUT, KEEP, Row

VP = NoiseSchedule.vp_linear()
LAW = VP.alpha(np.arange(1, 101) / 100) ** 2
SCHEDULES = {
    "vp": VP,
    "discrete": NoiseSchedule.discrete(LAW),
    "zero-snr": NoiseSchedule.discrete(np.append(LAW[:-1], 0.0)),
    "edm": NoiseSchedule.edm(),
    "flow": NoiseSchedule.flow(),
}
ODE = ("bdia", "o_belm", "alf", "reversible_heun", "edict", "rex")
MIXTURE = Mixture(((0.6, 0.3), (-0.7, 0.2), (0.1, -0.7)), (0.55, 0.45, 0.6))
ENDS = {"t_start": 1.0, "t_end": 1e-3}


# The way there and back, by the definitions ------------------------------------------------------------------------


class Run:
    """A table, a network, noise and the mean: the pair after the last row, and the pair before the first from it."""

    def __init__(self, table: Tableau, denoiser: Denoiser, x: Tensor, seeds: Any = (), mu: Tensor | None = None):
        self.table, self.denoiser, self.x, self.mu = table, denoiser, x, mu
        self.source = NoiseSource(seeds or range(x.shape[0]))
        calls = Nodes(*(c[:-1] for c in table.nodes))
        self.p, self.q = convert(denoiser.prediction, table.forms, calls)
        self.r = mean_weight(self.p, table.schedule.beta(calls.t)) * (mu is not None)

    def predict(self, k: int, x: Tensor) -> Tensor:
        out = self.denoiser.call(x, torch.tensor(self.table.model_times[k]))
        return float(self.p[k]) * x + float(self.q[k]) * out + float(self.r[k]) * (0.0 if self.mu is None else self.mu)

    def noises(self, k: int) -> list[Tensor]:
        return [self.source(draw, self.x) for draw in self.table.draws(k)]

    def there(self) -> tuple[State, list[Tensor]]:
        """[carry, input] = W_k @ [carry, input, m_k .. m_{k-H+1}, z, const], and every input."""
        table, blank = self.table, torch.zeros_like(self.x)
        state = first_state(table, self.x)
        past, seen = [blank] * table.history, []
        for k in range(table.nfe):
            seen.append(state.input)
            past = [self.predict(k, state.input), *past][: table.history]
            drawn = dict(zip((d.slot for d in table.draws(k)), self.noises(k), strict=True))
            z = [drawn.get(i, blank) for i in range(table.slots)]
            const = [blank + (1.0 if self.mu is None else self.mu)] * table.constant
            registers = torch.stack([*state[:2], *past, *z, *const])
            state = State(*torch.tensordot(torch.tensor(table.W[k], dtype=self.x.dtype), registers, 1))
        return state, seen

    def back(self, state: State) -> tuple[State, list[Tensor]]:
        """The pair before the first row, and every input again."""
        inputs: list[Tensor] = []
        for block in reversed(blocks(self.table)):
            state, seen = block.back(state, self.predict, self.noises, 1.0 if self.mu is None else self.mu)
            inputs = [*seen, *inputs]
        return state, inputs


def round_trip(run: Run) -> float:
    """Relative error of carry and input at the start, and of what the network saw."""
    end, seen = run.there()
    calls = run.denoiser.nfe
    state, again = run.back(end)
    assert run.denoiser.nfe - calls == run.table.nfe  # no evaluation more than on the way there
    return max(distance(state.input, run.x), distance(state.carry, run.x), *map(distance, again, seen))


def spent(name: str, steps: int, **options: Any) -> int:
    entry = SOLVERS[name]
    return steps * (entry.calls({**entry.options, **options}) if callable(entry.calls) else entry.calls)


# Orders ------------------------------------------------------------------------------------------------------------


def expansive(seed: int = 0) -> tuple[Denoiser, Tensor]:
    """eps = sigma x + a random network of two layers: distances grow along the flow."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shapes = ((9, 32), (32, 32), (32, 8))
    A, B, C = (1.5 * draw(*shape) / shape[0] ** 0.5 for shape in shapes)

    def network(x: Tensor, tau: Tensor) -> Tensor:
        h = torch.cat([x, tau.to(x).expand(len(x), 1)], 1)
        return float(VP.sigma(float(tau))) * x + torch.tanh(torch.tanh(h @ A.to(x)) @ B.to(x)) @ C.to(x)

    return Denoiser(network, VP, "epsilon"), draw(4, 8)


@lru_cache
def problem(kind: str) -> tuple[Denoiser, Tensor, Tensor]:
    """Network, starts and the exact ends."""
    denoiser, x = expansive() if kind == "expansive" else (MIXTURE.denoiser(VP, "sample"), starts(VP, 1.0))
    return denoiser, x, sample(denoiser, x, "etd_rk5", 8 * 300, "logsnr", **ENDS)


def order(kind: str, name: str, steps: tuple[int, int], **options: Any) -> float:
    denoiser, x, answer = problem(kind)
    few, many = (
        distance(sample(denoiser, x, name, spent(name, n, **options), "logsnr", **ENDS, **options), answer)
        for n in steps
    )
    return float(np.log(few / many) / np.log(steps[1] / steps[0]))


OPTIONS: list[tuple[str, dict[str, Any], float]] = [
    ("bdia", {}, 2), ("bdia", {"gamma": 0.5}, 1), ("o_belm", {}, 2), ("o_belm", {"form": "flow"}, 2),
    ("alf", {}, 2), ("alf", {"form": "eps"}, 2), ("alf", {"form": "x0"}, 2), ("alf", {"eta": 0.9}, 1),
    ("reversible_heun", {}, 2), ("reversible_heun", {"form": "x0"}, 2), ("edict", {"form": "x0"}, 2),
    ("edict", {"p": 0.5}, 1), ("rex", {}, 2), ("rex", {"form": "x0"}, 2), ("rex", {"rk": "euler"}, 1),
    ("rex", {"zeta": 1.0}, 2), ("rex", {"rk": "heun"}, 2), ("rex", {"rk": "kutta3"}, 3), ("rex", {"rk": "rk4"}, 4),
    ("rex", {"rk": "rk4", "form": "x0"}, 4),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "want"), OPTIONS, ids=[f"{n}-{o}" for n, o, _ in OPTIONS])
def test_order_on_the_mixture(name: str, options: dict[str, Any], want: float) -> None:
    assert build(name, VP, 24, **options).order == want
    assert order("mixture", name, (80, 160), **options) == pytest.approx(want, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ODE)
def test_second_order_where_distances_grow(name: str) -> None:
    assert order("expansive", name, (160, 320)) > 1.75


def test_reversible_heun_on_x0_is_o_belm_on_eps() -> None:
    """The leapfrog in alpha/sigma and the two-step rule in sigma/alpha are one method."""
    denoiser, x, _ = problem("mixture")
    ends = [
        sample(denoiser, x, name, 20, **ENDS, form=form)
        for name, form in (("o_belm", "eps"), ("reversible_heun", "x0"))
    ]
    assert distance(*ends) < 1e-11


@pytest.mark.parametrize("form", ["flow", "x0"])
def test_edict_without_mixing_is_rex_euler_without_mixing(form: str) -> None:
    denoiser, x, _ = problem("mixture")
    edict = sample(denoiser, x, "edict", 21, **ENDS, p=1.0, alternate=False, form=form)
    assert distance(edict, sample(denoiser, x, "rex", 21, **ENDS, rk="euler", zeta=1.0, form=form)) < 1e-12


# Round trips -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), in_turn(ODE, SCHEDULES))
def test_there_and_back_to_the_ends_of_every_schedule(name: str, kind: str) -> None:
    """From alpha = 0, down to sigma = 0, with rests of every size."""
    schedule = SCHEDULES[kind]
    denoiser, x = MIXTURE.denoiser(schedule, "v_prediction"), starts(schedule, schedule.t_max, 4)
    for nfe in (1, 2, 3, 7, 12, 50):
        table = build(name, schedule, nfe)
        off = round_trip(Run(table, denoiser, x))
        assert off < (1e-10 if name in ("alf", "bdia", "rex", "reversible_heun") else 1e-8)
        assert off < 1e-15 * max(50.0, 10 * amplification(table))


@pytest.mark.parametrize("name", ODE)
def test_there_and_back_where_distances_grow(name: str) -> None:
    denoiser, x = expansive()
    limit = 1e-9 if name == "o_belm" else 1e-10  # its sigma_0 / sigma_N comes on top of the flow's own growth
    assert round_trip(Run(build(name, VP, 50, "logsnr", **ENDS), denoiser, x)) < limit


@pytest.mark.parametrize("options", [{}, {"rk": "euler"}, {"rk": "rk4"}, {"rk": "kutta3"}, {"form": "x0"}])
def test_rex_comes_back_with_every_increment(options: dict[str, Any]) -> None:
    denoiser, x, _ = problem("mixture")
    for nfe in (8, 25, 29):
        assert round_trip(Run(build("rex", VP, nfe, **ENDS, **options), denoiser, x)) < 1e-10


@pytest.mark.parametrize("name", ["alf", "bdia", "reversible_heun", "rex", "edict"])
def test_single_precision_comes_back_to_single_precision(name: str) -> None:
    denoiser, x, _ = problem("mixture")
    table = build(name, VP, 50, "logsnr", **ENDS)
    check_growth(table, torch.float32)
    assert round_trip(Run(table, denoiser, x.float())) < 1e-4


def test_the_same_noise_leads_back_and_no_other() -> None:
    denoiser, x, _ = problem("mixture")
    run = Run(build("rex_sde", VP, 41, "logsnr", t_start=0.6, t_end=0.01), denoiser, x)
    assert round_trip(run) < 1e-9
    end, _ = run.there()
    run.source = NoiseSource(range(100, 116))
    assert distance(run.back(end)[0].input, x) > 0.05
    with pytest.raises(ValueError, match="drew noise.*the same"):
        blocks(run.table)[0].back(end, run.predict)


def test_an_sde_comes_back_in_single_precision_where_it_forgets_little() -> None:
    denoiser, x, _ = problem("mixture")
    table = build("rex_sde", VP, 41, "logsnr", **ENDS, form="flow")
    other = build("rex_sde", VP, 41, "logsnr", **ENDS)
    assert check_growth(table, torch.float32) < 1e3 < 1e9 < amplification(other)
    with pytest.raises(ValueError, match='at most 1e-09 is expected.*rex_sde: form="flow"'):
        check_growth(other, torch.float64)
    assert round_trip(Run(table, denoiser, x.float())) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "want"), [({"form": "flow"}, 1), ({"form": "flow", "tau": 0.5}, 1), ({"tau": 0.5}, 2)]
)
def test_weak_order_of_options(options: dict[str, Any], want: int) -> None:
    errors = [affine.errors(build("rex_sde", VP, n, "logsnr", **ENDS, **options))[1] for n in (512, 1024)]
    assert build("rex_sde", VP, 8, **options).order == want
    assert want - 0.3 < np.log2(errors[0] / errors[1]) < want + 1.0


@pytest.mark.parametrize("name", ["alf", "bdia", "rex"])
def test_a_mean_is_honoured(name: str) -> None:
    schedule = NoiseSchedule.mean_reverting(0.5)
    mu = torch.tensor([[0.4, -0.7]], dtype=torch.float64)

    def network(x: Tensor, tau: Tensor) -> Tensor:
        alpha, sigma = (float(f(float(tau))) for f in (schedule.alpha, schedule.sigma))
        return MIXTURE.predict(x - mu + alpha * mu, alpha, sigma)[1]

    denoiser, x = Denoiser(network, schedule, "epsilon"), mu + starts(schedule, 1.0, 4)
    run = Run(build(name, schedule, 20), denoiser, x, mu=mu)
    assert distance(run.there()[0].input, sample(denoiser, x, run.table, mu=mu)) < 1e-12
    assert round_trip(run) < 1e-10


# Rounding ----------------------------------------------------------------------------------------------------------

GROWTH = [
    ("bdia", {"gamma": 0.5}, 2.0),
    ("alf", {"eta": 0.9}, 1 / 0.8),
    ("edict", {}, 0.93**-2),
    ("rex", {"zeta": 0.9}, 1 / 0.9),
]


@pytest.mark.parametrize(("name", "options", "factor"), GROWTH)
def test_rounding_grows_as_the_papers_say(name: str, options: dict[str, Any], factor: float) -> None:
    """By a factor a step, and the round trip shows it."""
    denoiser, x, _ = problem("mixture")
    tables = [build(name, VP, spent(name, n, **options), "logsnr", **ENDS, **options) for n in (60, 120)]
    few, many = map(amplification, tables)
    assert np.log(many / few) / 60 == pytest.approx(np.log(factor), rel=0.1)
    assert 1e-4 * few < round_trip(Run(tables[0], denoiser, x)) / 1e-16 < 1e2 * few


def test_a_way_back_that_rounding_closes_is_refused() -> None:
    table = build("bdia", VP, 80, gamma=0.5)
    with pytest.raises(ValueError, match=r"bdia: on the way back rounding grows .*float64.*keep the states"):
        check_growth(table, torch.float64)
    assert check_growth(build("bdia", VP, 80), torch.float32) < 10
    short = build("bdia", VP, 20, gamma=0.5)
    check_growth(short, torch.float64)
    with pytest.raises(ValueError, match="float32"):
        check_growth(short, torch.float32)


@pytest.mark.parametrize("name", ["alf", "bdia", "reversible_heun", "rex"])
def test_undamped_solvers_do_not_grow(name: str) -> None:
    for schedule in SCHEDULES.values():
        assert amplification(build(name, schedule, 100)) < 20


# Tables without a way back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dpmpp_2m", "ddim", "heun", "dpm_3", "unipc", "er_sde", "pndm"])
def test_other_tables_have_none_and_the_first_row_is_named(name: str) -> None:
    table = build(name, VP, 10, **ENDS)
    with pytest.raises(ValueError, match=rf"{name}: row \d of 10 cannot be undone: .*keep its states"):
        blocks(table)
    parts = blocks(table, strict=False)
    assert [k for part in parts for k in range(part.start, part.stop)] == list(range(10))
    kept = next(part for part in parts if not part.exact)
    assert kept.stop == kept.start + 1
    with pytest.raises(ValueError, match="keep the state before it"):
        kept.back(State(torch.zeros(1), torch.zeros(1)), lambda k, x: x)


def test_alf_that_forgets_its_velocity_has_none() -> None:
    with pytest.raises(ValueError, match="row 1 of 10 cannot be undone: it forgets the carry"):
        blocks(build("alf", VP, 10, eta=0.5))


def test_a_run_resumed_inside_a_step_has_one_from_its_next_step_on() -> None:
    denoiser, x, _ = problem("mixture")
    run = Run(resume(build("rex", VP, 16, **ENDS), 5), denoiser, x)
    parts = blocks(run.table, strict=False)
    assert [part.exact for part in parts] == [False] * 3 + [True] * 4
    end, seen = run.there()
    for part in reversed(parts[3:]):
        end, again = part.back(end, run.predict)
        assert distance(again[0], seen[part.start]) < 1e-12
    assert amplification(run.table, strict=False) < 10


def test_blocks_are_as_short_as_outputs_are_remembered() -> None:
    """Rex with four stages: half a step is a block; the others come back row by row."""
    lengths = {"bdia": {1}, "alf": {1}, "edict": {1}, "reversible_heun": {1}}
    for name, want in lengths.items():
        assert {part.stop - part.start for part in blocks(build(name, VP, 16, **ENDS))} == want
    parts = blocks(build("rex", VP, 16, **ENDS, rk="rk4"))
    assert [(part.start, part.stop) for part in parts] == [(0, 4), (4, 8), (8, 12), (12, 16)]


def test_a_row_with_a_constant_of_its_own_comes_back() -> None:
    """Any table will do: two registers that exchange, with a constant and an output two rows old."""
    at = [VP.nodes(t) for t in (0.9, 0.5, 0.1)]
    rows = [
        Row(at[0], "x0", {INPUT: 0.5, 0: 0.3, CONST: 0.2}, KEEP),  # type: ignore[arg-type]
        Row(at[1], "x0", {CARRY: 0.7, INPUT: 0.1, 0: 0.2, 1: 0.4, CONST: -0.3}, {INPUT: 2.0, 1: -0.6}),  # type: ignore[arg-type]
    ]
    table = Tableau.from_rows("mine", VP, rows * 3, at[2], order=1, groups=[1] * 6, conserves="")  # type: ignore[arg-type]
    parts: list[Block] = blocks(table)
    assert [part.stop - part.start for part in parts] == [2, 2, 2]
    assert round_trip(Run(table, MIXTURE.denoiser(VP, "sample"), starts(VP, 0.9, 4))) < 1e-10


BAD = [
    ("bdia", {"gamma": 0.0}, "`gamma` must be in"), ("alf", {"eta": 1.5}, "`eta`"), ("edict", {"p": 0.0}, "`p`"),
    ("edict", {"alternate": "yes"}, "`alternate`"), ("rex", {"zeta": -1.0}, "`zeta`"), ("rex", {"rk": "simpson"}, "`rk`"),
    ("rex_sde", {"tau": -1.0}, "`tau`"), ("o_belm", {"form": "v"}, "`form` must be one of"), ("rex", {"form": "v"}, "`form`"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "said"), BAD)
def test_options_out_of_range_are_named(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: {said}"):
        build(name, VP, 10, **options)
