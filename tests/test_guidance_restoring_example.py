"""The restoring example runs at a small size, and guidance that differentiates the network restores best."""

import re

from PIL import Image
from test_examples import run


def test_restoring_digits(tmp_path):
    out = tmp_path / "restored.png"
    output = run("restore_digits", "--images", 2, "--nfe", 10, "--published", 2, "--out", out)
    rows = {
        name.strip(): (float(psnr), int(calls))
        for name, calls, psnr in re.findall(r"([a-z, ]+) +\d+ +(\d+) +\d+ +([\d.-]+)", output)
    }
    assert rows["dps"][0] > rows["dps, published"][0] and min(rows["dps"][0], rows["pigdm"][0]) > rows["mpgd"][0]
    assert {calls for name, (_, calls) in rows.items() if name != "dps, published"} == {10}
    Image.open(out).verify()
