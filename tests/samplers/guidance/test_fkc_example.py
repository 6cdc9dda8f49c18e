"""The example of two experts, at a small size."""

import re

import pytest
from example_runner import run
from PIL import Image


@pytest.mark.slow
def test_what_two_experts_agree_on(tmp_path):
    out = tmp_path / "product.png"
    output = run("product_of_experts", "--particles", 6, "--nfe", 6, "--ess", 1, "--out", out)
    rows = re.findall(r"(plain CFG|mean score|weighted) *: 4 ([\d.]+), 9 ([\d.]+), neither (-?[\d.]+)", output)
    assert [name for name, *_ in rows] == ["plain CFG", "mean score", "weighted"]
    assert all(abs(sum(map(float, p)) - 1) < 2e-3 for _, *p in rows)
    assert re.search(r"resampled 5 times", output)  # after every step but those of the last tenth
    assert Image.open(out).size == (720, 468)
