"""DPM-Solver-v3: rows whose weights differ by element, against the formulas written out and the solvers they contain."""

from __future__ import annotations

from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from convergence import problem, slopes
from operations import cost
from problems import Mixture, starts
from torch import Tensor

import fewstep
from fewstep.samplers import Denoiser, NoiseSchedule, Statistics, Tableau, build, sample
from fewstep.samplers.run.lowering import MOST_OPERATIONS, lower
from fewstep.samplers.schedule.base import Nodes
from fewstep.samplers.schedule.outputs import convert
from fewstep.samplers.solvers.dpm_solver_v3 import newton_basis

VP = NoiseSchedule.vp_linear()
FULL: dict[str, Any] = {"lower_order_final": False}


def l_s_b(lam: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth functions, different for both elements of a sample: (n, 2) each."""
    lam, turn = np.asarray(lam)[..., None], np.array([0.0, 1.3])
    return 0.8 + 0.3 * np.sin(0.5 * lam + turn), -0.3 + 0.2 * np.cos(0.6 * lam + turn), 0.4 * np.sin(0.7 * lam - turn)


def made(low: float = -5.03, high: float = 6.0, nodes: int = 400, each: Any = l_s_b) -> Statistics:
    lam = np.linspace(low, high, nodes)
    return Statistics(lam, *each(lam))


# The rows --------------------------------------------------------------------------------------------------------


def simpson(values: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """Running integrals over equidistant lam, of either direction."""
    return (lam[-1] - lam[0]) * scipy.integrate.cumulative_simpson(values, dx=1 / (len(lam) - 1), axis=0, initial=0.0)


def taylor_step(
    x: np.ndarray, s: Any, t: Any, at: list[Any], outputs: list[np.ndarray], cut: bool = False
) -> np.ndarray:
    """The formulas in Taylor form, with derivatives from a linear system and integrals by Simpson's rule.

    x_t = alpha_t A [x / alpha_s - int E B - sum_k g^(k) int E (lam - lam_s)^k / k!]; outputs are N at the nodes `at`, s first.
    """

    def integrals(end: float) -> tuple[np.ndarray, ...]:
        lam = np.linspace(s.lam, end, 4001)
        l, slope, b = l_s_b(lam)  # noqa: E741
        S = simpson(slope, lam)
        return lam, simpson(l, lam), S, simpson(np.exp(-S) * b, lam)

    g = []
    for node, N in zip(at, outputs, strict=True):
        S, B = (np.zeros(2), np.zeros(2)) if node is s else (v[-1] for v in integrals(node.lam)[2:])
        g.append(np.exp(-S) * N / node.alpha - B)
    gaps = np.array([node.lam - s.lam for node in at])
    derivatives = [g[0]]
    if len(at) > 1 and not cut:
        system = np.vander(gaps[1:], len(at), increasing=True)[:, 1:]
        shifted = np.stack([v - g[0] for v in g[1:]]).reshape(len(at) - 1, -1)
        solved = np.linalg.solve(system, shifted).reshape(len(at) - 1, *g[0].shape)
        derivatives += [factorial(k + 1) * v for k, v in enumerate(solved)]
    elif cut:
        column = g
        for k in range(1, len(at)):
            column = [
                (b - a) / (gaps[i + k] - gaps[i]) for i, (a, b) in enumerate(zip(column, column[1:], strict=False))
            ]
            derivatives.append(factorial(k) * column[0])
    lam, L, S, B = integrals(t.lam)
    E, u = np.exp(L + S), (lam - s.lam)[:, None]
    total = simpson(E * B, lam)[-1]
    for k, d in enumerate(derivatives):
        total = total + d * simpson(E * u**k / factorial(k), lam)[-1]
    return t.alpha * np.exp(-L[-1]) * (x / s.alpha - total)


def longhand(denoiser: Denoiser, x: np.ndarray, table: Tableau, p: int, c: int, cut: tuple[bool, bool]) -> np.ndarray:
    """Predict, evaluate, correct; N of a node stays what it was when it was evaluated."""
    nodes = [Nodes(*(v[k] for v in table.nodes)) for k in range(table.nfe + 1)]
    N: list[np.ndarray] = []
    start = x  # what the last step began with
    for k, s in enumerate(nodes[:-1]):
        eps = denoiser.eps(torch.from_numpy(x), float(s.t)).numpy()
        N.insert(0, s.sigma * eps - l_s_b(s.lam)[0] * x)
        if k and c:
            n = min(c, min(p, k) + 1)
            past = [nodes[k - 1], s, *(nodes[k - j] for j in range(2, n))]
            x = taylor_step(start, nodes[k - 1], s, past, [N[1], N[0], *N[2:n]], cut[1])
        start = x
        n = min(p, k + 1)
        x = taylor_step(x, s, nodes[k + 1], [nodes[k - j] for j in range(n)], N[:n], cut[0])
    return x


@pytest.mark.parametrize(
    ("order", "corrector", "cut"),
    [(1, 0, (False, False)), (2, 3, (False, False)), (3, 0, (False, False)), (3, 4, (False, False)),
     (3, 4, (True, True)), (3, 3, (False, True))],
)  # fmt: skip
def test_rows_are_the_formulas(order: int, corrector: int, cut: tuple[bool, bool]) -> None:
    times = VP.t_of_lam(np.array([-5.0, -3.9, -3.1, -1.8, -0.9, 0.4, 1.1, 2.3]))
    x, denoiser = starts(VP, float(times[0]), 3), Mixture().denoiser(VP)
    options = {"pseudo_predictor": cut[0], "pseudo_corrector": cut[1], "corrector": corrector or False, **FULL}
    table = build("dpm_solver_v3", VP, 7, times, statistics=made(), order=order, limiter=False, **options)
    assert table.W.shape[3:] == (2,) and table.elementwise and table.constant
    want = longhand(denoiser, x.numpy(), table, order, corrector, cut)
    assert float((sample(denoiser, x, table) - torch.from_numpy(want)).abs().max()) < 1e-7


@pytest.mark.parametrize("kind", ["vp", "zero-snr", "edm", "flow"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_trivial_statistics_are_known_solvers(order: int, kind: str) -> None:
    law = VP.alpha(np.arange(1, 101) / 100) ** 2
    schedule = {"vp": VP, "edm": NoiseSchedule.edm(), "flow": NoiseSchedule.flow()}.get(kind)
    schedule = schedule or NoiseSchedule.discrete(np.append(law[:-1], 0.0))
    for statistics, form in ((None, "x0"), (Statistics.noise_prediction(), "eps")):
        for corrector in (True, False):
            same = {"order": order, "corrector": corrector, "lower_order_final": "zero"}
            for nfe in (1, 2, 9):
                mine = build("dpm_solver_v3", schedule, nfe, statistics=statistics, limiter=False, **same)
                known = build("unipc", schedule, nfe, weights="exact", form=form, limiter=False, **same)
                assert mine.W.shape == known.W.shape and mine.forms == known.forms and not mine.constant
                assert np.allclose(mine.W, known.W, rtol=0, atol=1e-12 * np.abs(known.W).max())
    adams = build("abnorsett", schedule, 9, order=order, lower_order_final="zero", limiter=False)
    mine = build("dpm_solver_v3", schedule, 9, order=order, corrector=False, limiter=False)
    assert np.allclose(mine.W[:, 1], adams.W[:, 1], rtol=0, atol=1e-12 * np.abs(adams.W).max())


def test_pseudo_order_is_the_newest_divided_difference() -> None:
    u = np.array([0.0, -0.8, -1.9, -3.1])
    for k in range(4):
        p = newton_basis(u)[:, k]
        for degree in range(k):
            assert abs(p @ u**degree) < 1e-12
        assert p @ u**k == pytest.approx(1.0)


def test_elements_are_on_their_own() -> None:
    """A table of two different elements is two tables side by side, for a network that treats elements alike."""
    denoiser = Denoiser(lambda x, tau: torch.tanh(x) + 0.3 * x * tau, VP, "epsilon")
    x, both = starts(VP, 1.0, 4), made()
    got = sample(denoiser, x, "dpm_solver_v3", 9, "logsnr", statistics=both)
    for i in (0, 1):
        one = Statistics(both.lam, both.l[:, i], both.s[:, i], both.b[:, i])
        table = build("dpm_solver_v3", VP, 9, "logsnr", statistics=one)
        assert not table.elementwise and one.shape == ()
        alone = sample(denoiser, x, table)
        assert torch.allclose(got[:, i], alone[:, i], rtol=0, atol=1e-12)
        assert not torch.allclose(got[:, 1 - i], alone[:, 1 - i], atol=1e-3)
    shared = Statistics(both.lam, both.l[:, :1], both.s[:, :1], both.b[:, :1])
    assert torch.allclose(
        sample(denoiser, x, "dpm_solver_v3", 9, "logsnr", statistics=shared)[:, 0], got[:, 0], atol=1e-12
    )


def settled(lam: np.ndarray) -> tuple[np.ndarray, ...]:
    """(1, 0, 0) at the noisy end, as those of every model: x0 is constant there, and low-order first steps cost nothing."""
    w = 0.5 + 0.5 * np.tanh(lam + 2)[..., None]
    l, s, b = l_s_b(lam)  # noqa: E741
    return 1 + w * (l - 1), w * s, w * b


def measured(order: int, **options: Any) -> float:
    denoiser, x, ends, answer = problem("vp")
    statistics = made(-7.6, 7.0, 150, settled)
    options = {"statistics": statistics, "order": order, **FULL, **options}
    tables = [build("dpm_solver_v3", denoiser.schedule, n, "logsnr", **ends, **options) for n in (100, 200, 400)]
    return float(np.median(slopes(denoiser, x, answer, tables)))


ORDERS = [
    (1, {"corrector": False}, 1), (2, {"corrector": False}, 2), (3, {"corrector": False}, 3),
    (3, {"corrector": False, "pseudo_predictor": True}, 2), (1, {}, 2), (2, {}, 3), (3, {}, 4),
    (3, {"pseudo_predictor": True, "pseudo_corrector": True}, 2),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("order", "options", "expected"), ORDERS)
def test_order_with_any_smooth_statistics(order: int, options: dict[str, Any], expected: int) -> None:
    declared = build("dpm_solver_v3", VP, 9, "logsnr", t_end=1e-3, statistics=made(), order=order, **options).order
    assert declared == expected
    assert measured(order, **options) == pytest.approx(expected, abs=0.2)


# Execution -------------------------------------------------------------------------------------------------------


def textbook(table: Tableau, denoiser: Denoiser, x: Tensor, post: Any = None) -> np.ndarray:
    """The definition of a table in numpy, with weights of one sample's shape and a constant of one."""
    carry = inputs = x.numpy()
    past = [np.zeros_like(inputs)] * table.history
    for k in range(table.nfe):
        node = Nodes(*(c[k : k + 1] for c in table.nodes))
        at = torch.from_numpy(inputs)
        source, o = denoiser.prediction, denoiser(at, float(table.times[k])).numpy()
        if post is not None:
            source, o = "sample", post(denoiser.x0(at, float(table.times[k]))).numpy()
        p, q = convert(source, [table.forms[k]], node)
        past = [p * inputs + q * o, *past][: table.history]
        registers = [carry, inputs, *past, *[np.ones_like(inputs)] * table.constant]
        carry, inputs = (sum(w * r for w, r in zip(line, registers, strict=True)) for line in table.W[k])
    return inputs


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("end", ["positive", "zero"])
def test_execution_of_elementwise_weights(prediction: str, end: str) -> None:
    """Down to sigma = 0 too, where the last step returns the x0 that a corrected state and N leave."""
    schedule = NoiseSchedule.edm()
    low, high = float(schedule.lam(80.0)), float(schedule.lam(0.002))
    statistics = made(low, high)
    x, denoiser = starts(schedule, 80.0, 5), Mixture().denoiser(schedule, prediction)
    ends = {} if end == "zero" else {"t_end": 0.01}
    for nfe in (1, 2, 11):
        for options in ({}, {"corrector": False}, {"order": 1}):
            table = build("dpm_solver_v3", schedule, nfe, statistics=statistics, **ends, **options)
            for post in (None, lambda v: v.clamp(-0.4, 0.4)):
                got, want = sample(denoiser, x, table, post=post), textbook(table, denoiser, x, post)
                assert float((got - torch.from_numpy(want)).abs().max()) <= 1e-12 * max(80.0, float(np.abs(want).max()))
    assert table.nodes.sigma[-1] == (0 if end == "zero" else 0.01)


def test_a_start_without_signal() -> None:
    law = VP.alpha(np.arange(1, 101) / 100) ** 2
    schedule = NoiseSchedule.discrete(np.append(law[:-1], 0.0))
    statistics = made(float(schedule.lam(0.99)) - 0.01, float(schedule.lam(schedule.t_min)) + 0.01)
    x, denoiser = starts(schedule, 1.0, 5), Mixture().denoiser(schedule, "v_prediction")
    table = build("dpm_solver_v3", schedule, 9, statistics=statistics)
    assert table.nodes.alpha[0] == 0 and table.forms[0] == "x0" and isinstance(table.forms[1], tuple)
    assert torch.allclose(
        sample(denoiser, x, table), torch.from_numpy(textbook(table, denoiser, x)), rtol=0, atol=1e-11
    )


def test_at_most_four_operations_a_step() -> None:
    x = torch.randn(3, 2)
    flat = Statistics(made().lam, *(v[:, 0] for v in (made().l, made().s, made().b)))
    for statistics in (made(), flat):
        table = build("dpm_solver_v3", VP, 12, "logsnr", t_end=1e-3, statistics=statistics)
        for prediction in ("epsilon", "sample", "v_prediction"):
            for names in cost(lower(table, prediction), x, x):
                assert len(names) <= MOST_OPERATIONS, names


def test_mean_reverting_with_statistics_without_bias() -> None:
    schedule, mu = NoiseSchedule.mean_reverting(0.5), torch.tensor([[0.4, -0.7]], dtype=torch.float64)
    lam, (l, s, b) = np.linspace(-1, 8, 50), l_s_b(np.linspace(-1, 8, 50))  # noqa: E741
    network = Denoiser(lambda x, tau: torch.tanh(x - mu), schedule, "epsilon")
    plain = Denoiser(lambda x, tau: torch.tanh(x), schedule, "epsilon")
    y, ends = starts(schedule, 0.5, 3), {"t_start": 0.5, "t_end": 0.02}
    how = {"solver": "dpm_solver_v3", "nfe": 6, "statistics": Statistics(lam, l, s, 0 * b), **ends}
    got = sample(network, mu + y, mu=mu, **how)
    assert torch.allclose(got - mu, sample(plain, y, mu=torch.zeros(1, dtype=torch.float64), **how), atol=1e-10)
    with pytest.raises(ValueError, match="mean-reverting schedule the statistics must have b = 0"):
        sample(network, mu + y, mu=mu, **{**how, "statistics": Statistics(lam, l, s, b)})


def test_a_scheduler_plays_a_file_of_statistics(tmp_path: Path) -> None:
    path = tmp_path / "statistics.safetensors"
    made(-6.0, 6.0).save(path)
    config = {"solver": "dpm_solver_v3", "solver_options": {"statistics": str(path)}, "grid": "logsnr"}
    scheduler = fewstep.Scheduler(**config)
    scheduler.set_timesteps(8)
    table = scheduler._table.tableau
    denoiser = Mixture().denoiser(table.schedule)
    x = state = starts(table.schedule, float(table.times[0]), 3)
    for tau in scheduler.timesteps:
        output = denoiser.call(state, tau)
        state = scheduler.step(output, tau, state).prev_sample
    assert table.elementwise and table.constant
    assert torch.allclose(state, sample(denoiser, x, table), rtol=0, atol=1e-6)  # float32 timesteps
    scheduler.set_timesteps(8)
    with pytest.raises(ValueError, match=r"weights are of shape \(2,\), the samples of shape \(3, 4\)"):
        scheduler.step(torch.zeros(2, 3, 4), scheduler.timesteps[0], torch.zeros(2, 3, 4))


# The artefact ----------------------------------------------------------------------------------------------------


def test_statistics_are_saved_whole_and_exact(tmp_path: Path) -> None:
    path, first = tmp_path / "deep" / "statistics.safetensors", made()
    Statistics(first.lam, first.l, first.s, first.b, {"model": "mixture", "guidance": 1.5}).save(path)
    back = Statistics.load(path)
    assert all(np.array_equal(getattr(back, n), getattr(first, n)) for n in ("lam", "l", "s", "b"))
    assert back.metadata == {"model": "mixture", "guidance": 1.5} and back.shape == (2,)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_tables_with_statistics_are_saved(tmp_path: Path) -> None:
    made().save(tmp_path / "statistics.safetensors")
    for given in (made(), str(tmp_path / "statistics.safetensors")):
        table = build("dpm_solver_v3", VP, 5, "logsnr", t_end=1e-3, statistics=given)
        table.save(tmp_path / "table.json")
        back = fewstep.load(tmp_path / "table.json")
        assert np.array_equal(back.W, table.W)
        assert all(
            np.array_equal(a, b)
            for f, g in zip(back.forms, table.forms, strict=True)
            for a, b in zip(f, g, strict=True)
        )
        x, denoiser = starts(VP, 1.0, 3), Mixture().denoiser(VP)
        assert torch.equal(sample(denoiser, x, back), sample(denoiser, x, table))
        again = build("dpm_solver_v3", VP, 5, "logsnr", t_end=1e-3, **back.options)
        assert np.array_equal(again.W, table.W)


def test_splines_and_their_integrals() -> None:
    statistics, lam = made(), np.linspace(-4.7, 5.3, 37)
    for name, exact in zip("lsb", l_s_b(lam), strict=True):
        assert np.allclose(statistics.value(name, lam), exact, atol=1e-8)
    want = 0.8 * (lam + 1) - 0.6 * (np.cos(0.5 * lam) - np.cos(-0.5))
    assert np.allclose(statistics.integral("l", -1.0, lam)[:, 0], want, atol=1e-8)


# Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lam": np.zeros(400)}, "increasing numbers"),
        ({"lam": np.array([0.0])}, "at least 2"),
        ({"l": np.full((400, 2), np.nan)}, "`l` has 800 values that are not finite"),
        ({"s": np.zeros((400, 3))}, r"got l \(400, 2\), s \(400, 3\)"),
        ({"b": np.zeros((399, 2))}, r"one row a node of the 400"),
        ({"b": "zero"}, "`b` must be an array of numbers"),
    ],
)
def test_wrong_statistics_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Statistics(**{**{n: getattr(made(), n) for n in ("lam", "l", "s", "b")}, **change})


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "statistics.safetensors"
    path.write_text("nothing")
    with pytest.raises(ValueError, match="is not a statistics file"):
        Statistics.load(path)
    save_file({"lam": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="holds no statistics"):
        Statistics.load(path)
    save_file({n: np.zeros(3) for n in ("lam", "l", "s", "b")}, path, {"format": "fewstep.statistics", "version": "9"})
    with pytest.raises(ValueError, match="newer fewstep"):
        Statistics.load(path)
    with pytest.raises(FileNotFoundError):
        build("dpm_solver_v3", VP, 5, statistics=str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistics": 3}, "must be Statistics or the path of a file of them; got int"),
        ({"order": 4}, "`order` must be 1..3; got 4"),
        ({"corrector": 4, "order": 2}, "`corrector` must be 2..3; got 4"),
        ({"corrector": 1}, "`corrector` must be 2..4; got 1"),
        ({"pseudo_corrector": "yes"}, "`pseudo_corrector`"),
        (
            {"statistics": made(-3.0, 3.0)},
            r"lam = -5.025\.\.4.558, the statistics over -3\.\.3: .*t_start=0.7.* t_end=0.0",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("dpm_solver_v3", VP, 5, **options)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 2), ()])
def test_statistics_of_another_shape_are_refused_before_any_call(shape: tuple[int, ...]) -> None:
    denoiser = Mixture().denoiser(VP)
    with pytest.raises(ValueError, match=r"weights are of shape \(2,\), the samples of shape .*with 1 for an axis"):
        sample(denoiser, torch.zeros(4, *shape), "dpm_solver_v3", 5, statistics=made())
    assert denoiser.nfe == 0
