"""The example of two experts, at a small size."""

import importlib.util
import re
from pathlib import Path

from click.testing import CliRunner
from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "examples" / "product_of_experts.py"


def test_what_two_experts_agree_on(tmp_path):
    spec = importlib.util.spec_from_file_location("product_of_experts", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = tmp_path / "product.png"
    arguments = ["--particles", "6", "--nfe", "6", "--ess", "1", "--out", str(out)]
    result = CliRunner().invoke(module.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = re.findall(r"(mean score|weighted) *: 4 ([\d.]+), 9 ([\d.]+), neither (-?[\d.]+)", result.output)
    assert [name for name, *_ in rows] == ["mean score", "weighted"]
    assert all(abs(sum(map(float, p)) - 1) < 2e-3 for _, *p in rows)
    assert re.search(r"resampled 5 times", result.output)  # after every step but those of the last tenth
    assert Image.open(out).size == (720, 312)
