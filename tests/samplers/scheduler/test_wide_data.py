"""Every option of every continuous class, and every published config, on data as wide as pictures: N(0.5, 0.5^2).

`tests/benchmarks/option_product.py` and `std_of_solvers.py` print the cells; here a sample of them, and what holds for all.
"""

import random

import affine
import numpy as np
import pytest
from option_cases import CLASSES, classical, drawn, error
from real_grids import CONFIGS, table
from spreads import MEAN, OPTIONS, STD, coefficients, spreads

pytestmark = pytest.mark.usefixtures("quiet")

AMPLIFYING = ("pndm", "plms", "sde_dpm", "dpmpp_3m_sde")  # on cosine tables, whose first steps are large in log-SNR
MAY_BE_REFUSED = ("pndm",)  # for the rounding that it would amplify
# within 15 % on every published config from so many evaluations on
SETTLED = {"dpmpp_2m_sde": 50, "er_sde": 50, "flow_sde": 50, "res_multistep_ancestral": 50, "sa_solver": 50}


def verdicts(cases):
    """(case, its error, that of ddim at the same times) of those farther than 25 % at 15 evaluations or more."""
    for case in cases:
        try:
            got = error(case)
        except ValueError as refusal:
            assert case.solver[0] in MAY_BE_REFUSED and "amplifies rounding" in str(refusal), (case, refusal)
            continue
        assert np.isfinite(got), case
        if case.n >= 15 and got > 0.25:
            yield case, got, error(case, ddim=True)


def judged(cases):
    bad = [v for v in verdicts(cases) if v[2] <= 0.24]
    kept = [v for v in bad if v[0].solver[0] not in AMPLIFYING and v[0].config.get("shift_terminal") is None]
    assert not kept, kept[:5]


def test_a_few_cells_of_every_class():
    for cls in CLASSES:
        judged(drawn(cls, 2, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("cls", CLASSES)
def test_cells_of_every_class(cls):
    judged(drawn(cls, 60, seed=3))


@pytest.mark.slow
def test_a_thirtieth_of_the_classical_product():
    cases = classical()
    assert len(cases) == 22_572
    judged(random.Random(5).sample(cases, len(cases) // 30))


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m_sde", "dpmpp_3m_sde", "sa_solver", "seeds", "dpmpp_sde"])
def test_spreads_are_those_of_the_solver_run_on_coefficients(solver):
    for name in ("sd14_old_0.4", "sd3 shift 3"):
        played = table(CONFIGS[name], solver, 9, **OPTIONS.get(solver, {}))
        start = affine.marginal(played.schedule, float(played.times[0]), MEAN, STD)
        np.testing.assert_allclose(
            coefficients(played, start, (MEAN, STD)), affine.propagate(played, MEAN, STD), rtol=1e-6, atol=1e-9
        )


@pytest.mark.slow
@pytest.mark.parametrize("solver", SETTLED)
def test_spread_on_every_published_config(solver):
    ratios, refused = spreads(solver, SETTLED[solver])
    off = {name: ratio for name, ratio in ratios.items() if abs(ratio - 1) > 0.15}
    assert not off and len(ratios) > 50 and refused <= 2
