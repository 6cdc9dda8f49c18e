"""Tables prove themselves, show themselves, and are executed as they are defined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from problems import BLIND, PREDICTIONS, Gaussian, Mixture, in_turn, output, starts
from torch import Tensor

from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, NoiseSource, Tableau, build, sample
from fewstep.samplers.building.resuming import resume
from fewstep.samplers.noise.sources import GeneratorNoise
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import State, first_state
from fewstep.samplers.schedule.base import Node, Nodes
from fewstep.samplers.schedule.outputs import convert
from fewstep.samplers.table.row import CARRY, CONST, INPUT, KEEP, Row, noise

VP = NoiseSchedule.vp_linear()
LAW = VP.alpha(np.arange(1, 101) / 100) ** 2
SCHEDULES = {
    "vp": VP,
    "zero-snr": NoiseSchedule.discrete(np.append(LAW[:-1], 0.0)),
    "edm": NoiseSchedule.edm(),
    "flow": NoiseSchedule.flow(),
}
NAMES = [name for name, entry in SOLVERS.items() if entry.kind == "tableau"]


def node(schedule: NoiseSchedule, t: float) -> Node:
    return Node(*map(float, schedule.nodes(t)))


# Self-validation -------------------------------------------------------------------------------------------------


def table_of(rows: list[Row], end: float, **facts: Any) -> Tableau:
    return Tableau.from_rows("mine", VP, rows, node(VP, end), order=1, groups=[1] * len(rows), **facts)


def ddim_row(s: float, t: float, off: float = 0.0, form: str = "x0") -> Row:
    a, b = node(VP, s), node(VP, t)
    if form == "x0":
        return Row(a, form, {INPUT: b.sigma / a.sigma, 0: b.alpha - a.alpha * b.sigma / a.sigma + off})
    return Row(a, form, {INPUT: b.alpha / a.alpha, 0: b.sigma - b.alpha * a.sigma / a.alpha + off})


@pytest.mark.parametrize("form", ["x0", "eps"])
def test_a_wrong_row_is_refused(form: str) -> None:
    assert table_of([ddim_row(0.9, 0.5, form=form), ddim_row(0.5, 0.1, form=form)], 0.1).nfe == 2
    with pytest.raises(ValueError, match=r"row 1 does not integrate a constant x0 and eps exactly .* expected"):
        table_of([ddim_row(0.9, 0.5, form=form), ddim_row(0.5, 0.1, off=1e-6, form=form)], 0.1)


def test_a_row_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite.*grid decreases"):
        table_of([Row(node(VP, 0.9), "x0", {INPUT: np.nan, 0: 1.0})], 0.5)


def test_the_number_of_rows_is_the_number_of_evaluations() -> None:
    with pytest.raises(ValueError, match="1 evaluations"):
        Tableau.from_rows("mine", VP, [ddim_row(0.9, 0.5)], node(VP, 0.5), order=1, groups=[1, 1])


def ancestral_row(s: float, t: float, more: float = 0.0) -> Row:
    """DDIM with eta = 1: part of the noise is fresh."""
    a, b = node(VP, s), node(VP, t)
    sd = b.sigma * np.sqrt(-np.expm1(-2 * (b.lam - a.lam)))
    keep = np.sqrt(b.sigma**2 - sd**2) / a.sigma
    return Row(a, "x0", {INPUT: keep, 0: b.alpha - a.alpha * keep, noise(a, b): sd + more})


def test_noise_must_add_up_to_the_marginal() -> None:
    table = table_of([ancestral_row(0.9, 0.5), ancestral_row(0.5, 0.1)], 0.1)
    assert table.stochastic and table.slots == 1
    with pytest.raises(ValueError, match="row 0"):
        table_of([ancestral_row(0.9, 0.5, more=1e-4), ancestral_row(0.5, 0.1)], 0.1)


def test_a_table_can_be_printed() -> None:
    for name in NAMES:
        table = build(name, VP, 6)
        text = str(table)
        kind = "SDE" if table.stochastic else "ODE"
        assert text.startswith(f"{name}: order {table.order}, 6 evaluations, {kind}") and text.count("\n") >= 7
        assert f"end {table.times[-1]:>10.6g}" in text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.one_in(3)
def test_a_table_resumes_at_any_call(name: str) -> None:
    """The rest of the calls at their times; from the start of a step a one-step method goes on as it would have."""
    for schedule in SCHEDULES.values():
        table = build(name, schedule, 11)
        assert resume(table, 0) is table
        for begin in range(1, 11):
            rest = resume(table, begin)
            assert rest.nfe == 11 - begin and rest.times[0] == table.times[begin] and rest.times[-1] == table.times[-1]
            if SOLVERS[name].fn.__module__.endswith(("exponential_rk", "classical_rk")) and begin in np.cumsum(
                table.groups
            ):
                assert np.array_equal(rest.times, table.times[begin:])
                assert np.allclose(rest.W[:, 1, : table.registers], table.W[begin:, 1, : rest.registers], atol=1e-12)
    for begin in (-1, 11):
        with pytest.raises(ValueError, match=rf"begin index {begin} is outside 0..10"):
            resume(table, begin)


# Conversion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["x0", "eps", "flow"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_conversion_of_every_prediction(prediction: str, form: str) -> None:
    generator = torch.Generator().manual_seed(1)
    X, E = torch.randn(2, 7, dtype=torch.float64, generator=generator)
    for schedule in SCHEDULES.values():
        t = np.linspace(0.2, 0.8, 5) * schedule.t_max
        nodes = schedule.nodes(t)
        p, q = convert(prediction, [form] * 5, nodes)
        for k in range(5):
            alpha, sigma = float(nodes.alpha[k]), float(nodes.sigma[k])
            m = p[k] * (alpha * X + sigma * E) + q[k] * output(prediction, X, E, alpha, sigma)
            want = {"x0": X, "eps": E, "flow": E - X}[form]
            assert torch.allclose(m, want, rtol=0, atol=1e-11 * (1 + sigma / alpha))


def test_conversion_at_the_ends() -> None:
    start, end = (Nodes(*(np.array([v]) for v in n)) for n in ((1.0, 0.0, 1.0, -np.inf), (0.0, 1.0, 0.0, np.inf)))
    for prediction, blind in (("epsilon", start), ("sample", end)):
        for form in ("x0", "eps", "flow"):
            same = (prediction, form) in (("epsilon", "eps"), ("sample", "x0"))
            if same:
                assert convert(prediction, [form], blind) == (0.0, 1.0)
            else:
                with pytest.raises(ValueError, match=f"'{prediction}' says nothing about {form} at t = .*use a"):
                    convert(prediction, [form], blind)
    for prediction in ("v_prediction", "flow_prediction"):
        for at in (start, end):
            p, q = convert(prediction, ["x0", "eps"], Nodes(*(np.repeat(c, 2) for c in at)))
            assert np.isfinite([*p, *q]).all()


def test_denoiser_converts_as_well() -> None:
    for schedule in SCHEDULES.values():
        t = 0.4 * schedule.t_max
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        x = starts(schedule, t, 4)
        x0, eps = Mixture().predict(x, alpha, sigma)
        for prediction in PREDICTIONS:
            denoiser = Mixture().denoiser(schedule, prediction, learned_variance=True)
            assert torch.allclose(denoiser.x0(x, t), x0, atol=1e-9)
            assert torch.allclose(denoiser.eps(x, t), eps, atol=1e-9)
            assert torch.equal(denoiser(x, t), output(prediction, x0, eps, alpha, sigma)) and denoiser.nfe == 3


# Execution -------------------------------------------------------------------------------------------------------


def textbook(
    table: Tableau, denoiser: Denoiser, x: Tensor, noises: Any = None, constant: float = 0.0, post: Any = None
) -> np.ndarray:
    """The definition, register by register:  [carry, input] = W_k @ [carry, input, m_k .. m_{k-H+1}, z, const]."""
    blank = np.zeros(tuple(x.shape))

    def draw(k: int) -> list[np.ndarray]:
        found = {z.slot: noises(z, x).numpy() for z in table.draws(k)} if noises else {}
        return [found.get(slot, blank) for slot in range(table.slots)]

    def times(W: np.ndarray, registers: list[np.ndarray]) -> list[np.ndarray]:
        return [sum(w * r for w, r in zip(line, registers, strict=True)) for line in W]

    const = [np.full(tuple(x.shape), constant)] * table.constant
    carry = inputs = x.numpy()
    past = [blank] * table.history
    for k in range(table.nfe):
        t = float(table.times[k])
        alpha, sigma = float(table.nodes.alpha[k]), float(table.nodes.sigma[k])
        if post is None:
            p, q = convert(denoiser.prediction, [table.forms[k]], Nodes(*(c[k : k + 1] for c in table.nodes)))
            m = p * inputs + q * denoiser(torch.from_numpy(inputs), t).numpy()
        else:  # clip the predicted x0 and derive the rest from it
            x0 = post(denoiser.x0(torch.from_numpy(inputs), t)).numpy()
            eps = (inputs - alpha * x0) / sigma
            m = {"x0": x0, "eps": eps, "flow": eps - x0}[table.forms[k]]
        past = [m, *past][: table.history]
        carry, inputs = times(table.W[k], [carry, inputs, *past, *draw(k), *const])
    return inputs


def close(got: Tensor, want: np.ndarray, size: float = 1.0, rel: float = 1e-12) -> None:
    """Equal to rounding of numbers as large as the result or `size`, the state at the start."""
    assert float((got - torch.from_numpy(want)).abs().max()) <= rel * max(size, float(np.abs(want).max()))


CASES = [(name, {}) for name in NAMES]
CASES += [("unipc", {"order": 4, "form": "eps"}), ("unipc", {"disable_corrector": (0, 2)}), ("abnorsett", {"order": 5})]
CASES += [("unipc", {"corrector": False}), ("deis_rho_rk", {"method": "rk4"}), ("lms", {"order": 2})]


@pytest.mark.parametrize(("case", "kind"), in_turn(CASES, SCHEDULES))
@pytest.mark.one_in(3)
def test_execution_equals_the_definition(case: tuple[str, dict[str, Any]], kind: str) -> None:
    name, options = case
    schedule = SCHEDULES[kind]
    x = starts(schedule, schedule.t_max, 5)
    for prediction in PREDICTIONS:
        if prediction in BLIND and kind in ("zero-snr", "flow"):
            continue
        denoiser = Mixture().denoiser(schedule, prediction, learned_variance=True)
        for nfe in (1, 2, 11):
            table = build(name, schedule, nfe, **options)
            got = sample(denoiser, x, table, noise_seeds=range(5))
            close(got, textbook(table, denoiser, x, NoiseSource(range(5))), float(x.abs().max()))


def clip(x: Tensor) -> Tensor:
    return x.clamp(-0.4, 0.4)


@pytest.mark.parametrize(("name", "kind"), in_turn(NAMES, SCHEDULES))
def test_clipping_equals_the_longhand_loop(name: str, kind: str) -> None:
    schedule = SCHEDULES[kind]
    x, prediction = starts(schedule, schedule.t_max, 5), "v_prediction"
    denoiser = Mixture().denoiser(schedule, prediction)
    table = build(name, schedule, 9)
    got = sample(denoiser, x, table, post=clip, noise_seeds=range(5))
    close(got, textbook(table, denoiser, x, NoiseSource(range(5)), post=clip), float(x.abs().max()))
    assert not torch.allclose(got, sample(denoiser, x, table, noise_seeds=range(5)), atol=1e-3)


def test_two_registers() -> None:
    """carry stays where it is told to, input moves."""
    s, m, t = node(VP, 0.9), node(VP, 0.5), node(VP, 0.1)
    half = {INPUT: m.sigma / s.sigma, 0: m.alpha - s.alpha * m.sigma / s.sigma}
    whole = {CARRY: t.sigma / s.sigma, 0: t.alpha - s.alpha * t.sigma / s.sigma}
    rows = [Row(s, "x0", half, {INPUT: 1.0}), Row(m, "x0", whole)]
    table = Tableau.from_rows("midpoint", VP, rows, t, order=2, groups=[2])
    denoiser, x = Mixture().denoiser(VP, "sample"), starts(VP, 0.9, 4)
    seen: list[Tensor] = []
    got = sample(denoiser, x, table, callback=lambda step: seen.append(step.x))
    y = half[INPUT] * x + half[0] * denoiser.x0(x, 0.9)
    close(seen[0], y.numpy())
    close(got, (whole[CARRY] * x + whole[0] * denoiser.x0(y, 0.5)).numpy())
    kept = [rows[0], Row(m, "x0", {**whole, CARRY: whole[CARRY]}, KEEP)]
    close(sample(denoiser, x, Tableau.from_rows("kept", VP, kept, t, order=2, groups=[2])), got.numpy())


def test_noise_and_constant_follow_the_definition() -> None:
    s, t = node(VP, 0.9), node(VP, 0.1)
    m = node(VP, 0.5)
    rows = [
        ancestral_row(0.9, 0.5),
        Row(m, "x0", {INPUT: 0.3, 1: 0.2, 0: 0.4, CONST: 0.7, noise(m, t): 0.1, noise(s, t): -0.2}),
    ]
    table = Tableau.from_rows("mine", VP, rows, t, order=1, groups=[1, 1], conserves="")
    assert (table.slots, table.constant, table.history, table.registers) == (2, True, 2, 7)
    denoiser, x, source = Mixture().denoiser(VP, "sample"), starts(VP, 0.9, 4), NoiseSource([3, 1, 4, 1])
    state: State = first_state(table, x)
    constant = torch.full_like(x, 1.5)
    for step in lower(table, "sample", dtype=torch.float64, constant=constant):
        out = denoiser.call(state.input, step.model_time)
        state = step(state, out, [source(draw, x) for draw in step.draws])
    close(state.input, textbook(table, denoiser, x, source, 1.5))


def test_noise_rows_of_sample_follow_the_definition() -> None:
    table = table_of([ancestral_row(0.9, 0.5), ancestral_row(0.5, 0.1)], 0.1)
    denoiser, x, source = Mixture().denoiser(VP, "epsilon"), starts(VP, 0.9, 4), NoiseSource([3, 1, 4, 1])
    close(sample(denoiser, x, table, noise_seeds=[3, 1, 4, 1]), textbook(table, denoiser, x, source))
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    got = sample(denoiser, x, table, generator=generators)
    again = GeneratorNoise([torch.Generator().manual_seed(i) for i in range(4)])
    close(got, textbook(table, denoiser, x, again))


def test_a_gaussian_is_followed_to_its_exact_end() -> None:
    """The answer of an independent formula, not of another solver."""
    gaussian = Gaussian()
    for schedule in SCHEDULES.values():
        x = schedule.initial_noise((3, 2, 4), torch.Generator().manual_seed(0), dtype=torch.float64)
        got = sample(gaussian.denoiser(schedule, "v_prediction"), x, "dpmpp_3m", 400)
        want = gaussian.flow(schedule, x, schedule.t_max, schedule.t_end)
        assert float((got - want).abs().max()) < 1e-3
