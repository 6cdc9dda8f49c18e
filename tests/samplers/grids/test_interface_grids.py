"""Grids under the names of user interfaces have the levels that those would make, written out here from their rules."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from fewstep.samplers.grids.grid_entry import GRIDS
from fewstep.samplers.grids.making import find, make_grid
from fewstep.samplers.schedule.base import NoiseSchedule

SD = NoiseSchedule.from_config(
    {
        "_class_name": "EulerDiscreteScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    }
)
ABAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
LEVELS = np.sqrt((1 - ABAR) / ABAR)  # ascending
LOW, HIGH = LEVELS[0], LEVELS[-1]
FLOW, SHIFT = NoiseSchedule.flow(3.0), 3.0


def at(index: np.ndarray) -> np.ndarray:
    """Levels at fractional training steps, their logarithm linear in between."""
    return np.exp(np.interp(index, np.arange(1000), np.log(LEVELS)))


def shifted(t: np.ndarray) -> np.ndarray:
    return SHIFT * t / (1 + (SHIFT - 1) * t)


def quantile_steps(n: int, a: float, b: float) -> np.ndarray:
    return np.rint(beta.ppf(1 - np.arange(n) / n, a, b) * 999).astype(int)


def linear_quadratic(n: int) -> np.ndarray:
    half, threshold = n // 2, 0.025
    excess = half - threshold * n
    bend = excess / (half * (n - half) ** 2)
    slope = threshold / half - 2 * excess / (n - half) ** 2
    late = [bend * i**2 + slope * i + bend * half**2 for i in range(half, n)]
    return 1 - np.array([i * threshold / half for i in range(half)] + late)


def tangent(n: int) -> np.ndarray:
    N = n + 2
    middle = int(0.6 * N)
    steep = 0.2 / (N / 40)

    def part(count: int, pivot: int, start: float, end: float) -> np.ndarray:
        f = (2 / np.pi * np.arctan(-steep * (np.arange(count) - pivot)) + 1) / 2
        return (f - f[-1]) / (f[0] - f[-1]) * (start - end) + end

    return np.concatenate([part(middle, middle, 1.0, 0.5)[:-1], part(N - middle, 0, 0.5, 0.0)])[:-1]


def rule(name: str, n: int) -> np.ndarray:
    """The n positive levels sigma / alpha on Stable Diffusion 1.5."""
    u = np.linspace(0, 1, n)
    return {
        "normal": lambda: at(np.linspace(999, 0, n)),
        "sgm_uniform": lambda: at(np.linspace(999, 0, n + 1)[:-1]),
        "simple": lambda: LEVELS[[999 - int(k * 1000 / n) for k in range(n)]],
        "ddim_uniform": lambda: LEVELS[np.arange(1, 1000, 1000 // n)][::-1],
        "karras": lambda: (HIGH ** (1 / 7) + u * (LOW ** (1 / 7) - HIGH ** (1 / 7))) ** 7,
        "exponential": lambda: np.exp(np.linspace(np.log(HIGH), np.log(LOW), n)),
        "beta": lambda: LEVELS[quantile_steps(n, 0.6, 0.6)],
        "beta57": lambda: LEVELS[quantile_steps(n, 0.5, 0.7)],
        "kl_optimal": lambda: np.tan((1 - u) * np.arctan(HIGH) + u * np.arctan(LOW)),
        "linear_quadratic": lambda: HIGH * linear_quadratic(n),
        "laplace": lambda: np.clip(
            np.exp(-0.5 * np.sign(0.5 - u) * np.log(1 - 2 * np.abs(0.5 - u) + 1e-5)), LOW, HIGH
        ),
        "sd_turbo": lambda: LEVELS[[999 - 100 * k for k in range(n)]],
    }[name]()  # fmt: skip


SCHEDULERS = ("simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "linear_quadratic",
              "kl_optimal")  # fmt: skip


def levels(name: str, n: int, **options: float) -> np.ndarray:
    times = make_grid(name, SD, n, **options)
    assert len(times) == n + 1 and times[-1] == 0
    return np.exp(-SD.lam(times[:-1]))


@pytest.mark.parametrize("name", [*SCHEDULERS, "beta57", "laplace", "sd_turbo"])
def test_levels_on_stable_diffusion(name: str) -> None:
    np.testing.assert_allclose(levels(name, 10), rule(name, 10), rtol=1e-5)
    for n in (4, 8, 20, 25) if name != "sd_turbo" else (1, 4, 7):
        np.testing.assert_allclose(levels(name, n), rule(name, n), rtol=5e-5)  # ours is smooth between two steps


def test_some_levels_to_the_digits_that_interfaces_show() -> None:
    shown = {
        "normal": [14.614641, 7.839883, 4.609174, 2.918307, 1.950161, 1.344928, 0.932358, 0.624977, 0.368658, 0.029167],
        "beta": [14.614641, 11.542771, 7.371844, 4.372802, 2.615236, 1.618279, 1.027329, 0.654885, 0.395510, 0.199059],
        "kl_optimal": [14.614641, 4.232350, 2.393719, 1.597066, 1.132997, 0.815245, 0.572914, 0.372484, 0.195288, 0.029167],
        "gits": [14.61464119, 5.85520077, 2.84484982, 1.67050016, 1.08895338, 0.74807048, 0.50118381, 0.32104823,
                 0.19894916, 0.09824532],
    }  # fmt: skip
    for name, wanted in shown.items():
        np.testing.assert_allclose(levels(name, 10), wanted, rtol=2e-5)


def test_where_theirs_lose_or_add_a_step_ours_keep_n() -> None:
    assert len(np.arange(1, 1000, 1000 // 7)) == 8 and len(levels("ddim_uniform", 7)) == 7
    repeated = quantile_steps(200, 0.6, 0.6)
    assert len(set(repeated)) < 200 and len(set(levels("beta", 200))) == 200


def test_flows_are_shifted_as_interfaces_shift_them() -> None:
    """The step of the smallest level is shifted twice: asked for at its shifted time."""
    first = shifted(np.array(0.001))
    table = shifted(np.arange(1, 1001) / 1000)
    u = np.linspace(0, 1, 10)
    wanted = {
        "normal": shifted(np.linspace(1, first, 10)),
        "sgm_uniform": shifted(np.linspace(1, first, 11)[:-1]),
        "simple": table[[999 - 100 * k for k in range(10)]],
        "ddim_uniform": table[np.arange(1, 1000, 100)][::-1],
        "beta": table[quantile_steps(10, 0.6, 0.6)],
        "kl_optimal": np.tan((1 - u) * np.arctan(1.0) + u * np.arctan(first)),
        "linear_quadratic": linear_quadratic(10),
        "bong_tangent": tangent(10),
    }
    for name, sigmas in wanted.items():
        times = make_grid(name, FLOW, 10)
        np.testing.assert_allclose(times[:-1], sigmas, rtol=1e-9, err_msg=name)
        assert times[-1] == 0
    np.testing.assert_allclose(
        make_grid("bong_tangent", FLOW, 10)[1:5], [0.978045, 0.947931, 0.904317, 0.836365], atol=1e-6
    )
    np.testing.assert_allclose(make_grid("ltxv", FLOW, 10)[7:], [0.612670, 0.430046, 0.1, 0], atol=1e-6)


def test_vp_levels_and_what_a_shorter_schedule_takes_of_them() -> None:
    t = np.linspace(1, 1e-3, 10)
    theirs = np.sqrt(np.expm1(19.9 * t**2 / 2 + 0.1 * t))
    wide = NoiseSchedule.edm(theirs[-1], theirs[0])
    np.testing.assert_allclose(make_grid("vp", wide, 10)[:-1], theirs, rtol=1e-9)
    own = levels("vp", 10)
    assert own[0] == pytest.approx(HIGH) and own[-1] == pytest.approx(LOW)
    clock = (np.sqrt(0.01 + 39.8 * np.log1p(own**2)) - 0.1) / 19.9
    np.testing.assert_allclose(np.diff(clock, 2), 0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("oss_flux", [0.9968, 0.9819, 0.966, 0.9158, 0.5512, 0]),
        ("oss_wan", [1.0, 0.991, 0.98, 0.96, 0.864, 0]),
        ("oss_chroma", [0.992, 0.961, 0.832, 0.501, 0.169, 0]),
    ],
)
def test_optimal_steps_of_published_tables(name: str, wanted: list[float]) -> None:
    np.testing.assert_allclose(make_grid(name, FLOW, 5), wanted, atol=1e-12)
    begun = make_grid(name, FLOW, 5, 0.7)
    assert begun[0] == 0.7 and begun[1] in find(name)[0].fn(FLOW, 20, 0.7, 0.0) or begun[1] < 0.7


def test_gits_has_a_row_for_every_small_number_of_steps() -> None:
    for n in range(2, 21):
        found = levels("gits", n)
        assert found[0] == pytest.approx(HIGH) and len(found) == n and (np.diff(found) < 0).all()
    np.testing.assert_allclose(levels("gits", 4), [HIGH, 2.36326075, 0.92192322, 0.36617002], rtol=2e-5)
    coarse, fine = levels("gits", 20), levels("gits", 40)
    np.testing.assert_allclose(fine[::2], coarse, rtol=1e-9)


def test_gits_other_coefficients() -> None:
    """The less an error counts later, the more large levels; every published row is an own one."""
    known = (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35, 1.4, 1.45, 1.5)
    middle = []
    for coefficient in known:
        rows = [levels("gits", n, coefficient=coefficient) for n in range(2, 21)]
        assert all((np.diff(row) < 0).all() for row in rows)
        middle.append(float(np.log(rows[8]).mean()))
    assert (np.diff(middle) < 0).all() and len(set(middle)) == len(known)
    np.testing.assert_array_equal(levels("gits", 7, coefficient=1.2), levels("gits", 7))
    with pytest.raises(
        ValueError, match=r"one of 0\.8, 0\.85, .*1\.5, for which GITS' levels are published; got 1\.3[0-9]"
    ):
        levels("gits", 7, coefficient=1.33)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_name_is_known(name: str) -> None:
    entry, options = find(name)
    assert entry.name in GRIDS and set(options) <= set(entry.options)
    assert find(name.replace("_", " ").upper())[0] is entry


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("linear_quadratic", {"linear_steps": 10}, "linear_steps from 1 to n - 1 = 9"),
        ("laplace", {"beta": 0.0}, "must be positive"),
        ("vp", {"eps_s": 2.0}, "0 < eps_s < 1"),
        ("bong_tangent", {"pivot": 0.0}, "pivot <= 0.7"),
        ("optimal_steps", {"table": "fluxx"}, "Did you mean 'flux'"),
    ],
)
def test_bad_options_are_named(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_grid(name, FLOW, 10, **options)
