"""The restoring example runs at a small size, and guidance that differentiates the network restores best."""

import re

import pytest
import torch
from example_runner import run
from PIL import Image

import fewstep
from fewstep import Denoiser, load_demo_artefact, sample
from fewstep.samplers import guidance


@pytest.mark.slow
def test_restoring_digits(tmp_path):
    out = tmp_path / "restored.png"
    output = run("restore_digits", "--images", 2, "--nfe", 10, "--published", 2, "--out", out)
    rows = {
        name.strip(): (float(psnr), int(calls))
        for name, calls, psnr in re.findall(r"([a-z, 3]+) +\d+ +(\d+) +\d+ +([\d.-]+)", output)
    }
    assert rows["dps"][0] > rows["dps, published"][0] and min(rows["dps"][0], rows["pigdm"][0]) > rows["mpgd"][0]
    assert {calls for name, (_, calls) in rows.items() if name != "dps, published"} == {10}
    Image.open(out).verify()


def test_learned_tables_play_guided_pipelines():
    pipe, artefact = fewstep.load_demo_pipeline(), load_demo_artefact()
    denoiser = Denoiser.from_pipeline(pipe, class_labels=[2, 7])
    A = guidance.downsample(4)
    start = denoiser.initial_noise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        clean = sample(denoiser, start, artefact, nfe=5)
        guided = guidance.dps(denoiser, A(clean), A, 0.05)
        away, near = (A(sample(d, -start, artefact, nfe=8) - clean).square().mean() for d in (denoiser, guided))
    assert near < 0.4 * away


@pytest.mark.slow
@pytest.mark.parametrize("task", ["colour", "inpaint"])
def test_colour_pictures_are_controlled_by_what_is_known(tmp_path, task):
    out = tmp_path / "colours.png"
    output = run("control_colours", "--task", task, "--images", 3, "--nfe", 20, "--out", out)
    found = {name: (float(e), float(m)) for name, e, m in re.findall(r"(\w+) +error ([\d.]+) +misfit ([\d.]+)", output)}
    assert found["exact_covariance"][0] <= min(error for error, _ in found.values()) + 0.005
    assert found["replacement"][1] < 0.01 and found["replacement"][0] < 0.5 * found["nothing"][0]
    Image.open(out).verify()
