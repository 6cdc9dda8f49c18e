"""The examples of inverse and of compositional design, at a small size."""

import re

import pytest
from example_runner import run
from PIL import Image


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the reward failed for every particle")
def test_designs_by_a_black_box(tmp_path):
    out = tmp_path / "designs.png"
    output = run("inverse_design", "--designs", 2, "--candidates", 3, "--nfe", 4, "--out", out)
    rows = re.findall(
        r"^(plain|best of n|one of n a step|weighted) *: off by ([\d.]+|nan), broken \d of 2", output, re.M
    )
    assert [name for name, _ in rows] == ["plain", "best of n", "one of n a step", "weighted"]
    assert "lineages" in output
    Image.open(out).verify()


@pytest.mark.parametrize("bodies", [2, 3])
def test_bodies_from_models_of_parts(bodies):
    output = run("compositional_design", "--bodies", bodies, "--designs", 64, "--nfe", 16)
    gaps, speeds = (list(map(float, re.findall(rf"{word} ([\d.]+)", output))) for word in ("gap", "speed behind them"))
    assert gaps[1] < 0.7 * gaps[0] and speeds[1] < speeds[0]
