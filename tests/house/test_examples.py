"""The examples run as they are shown, at a small size, on the embedded model and on a saved pipeline."""

import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from example_runner import run
from PIL import Image
from pipelines import PIPELINES
from places import EXAMPLES


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    PIPELINES["ddpm"].make()[0].save_pretrained(folder)
    return folder


def errors(output):
    return {solver: float(value) for solver, value in re.findall(r"(\w+) at \d+ evaluations: ([\d.]+)", output)}


@pytest.mark.slow
def test_plugging_into_the_embedded_model(tmp_path):
    out = tmp_path / "digits.png"
    assert "10 images" in run("plug_into_pipeline", "--nfe", 3, "--out", out)
    assert Image.open(out).size == (280, 28)


def test_plugging_into_a_pipeline_of_ones_own(saved, tmp_path):
    out = tmp_path / "own.png"
    run("plug_into_pipeline", saved, "--call", '{"batch_size": 2}', "--solver", "dpmpp_2m", "--nfe", 3, "--out", out)
    assert Image.open(out).size == (16, 8)


@pytest.mark.slow
def test_from_the_embedded_pipeline():
    output = run("from_pipeline", "--nfe", 10, "--reference", 30)
    found = errors(output)
    assert 0 < found["dpmpp_2m"] < found["ddim"] < 0.5  # what the solvers are for
    assert float(re.search(r"norm ([\d.e+-]+)", output)[1]) > 0


def test_from_a_pipeline_of_ones_own(saved):
    output = run("from_pipeline", saved, "--nfe", 3, "--reference", 6, "--solvers", "heun")
    assert list(errors(output)) == ["heun"]


def numbers(pattern, output):
    return [float(value) for value in re.findall(pattern, output)]


@pytest.mark.slow
def test_optimising_noise(tmp_path):
    output = run("optimise_noise", "--images", 4, "--steps", 6, "--nfe", 4, "--out", tmp_path / "noise.png")
    before, after = numbers(r"mean probability ([\d.]+)", output)
    assert after > before + 0.2
    Image.open(tmp_path / "noise.png").verify()


@pytest.mark.slow
def test_distilling_digits(tmp_path):
    pixels, strokes = numbers(
        r"mean probability ([\d.]+)",
        run("distil_digits", "--images", 2, "--steps", 40, "--out", tmp_path / "drawn.png"),
    )
    assert pixels > 0.7 and strokes > 0.2
    Image.open(tmp_path / "drawn.png").verify()


@pytest.mark.slow
def test_completing_digits(tmp_path):
    out = tmp_path / "completed.png"
    output = run("edit_by_noise", "--images", 2, "--iterations", 6, "--nfe", 3, "--seed", 1, "--out", out)
    before, *after = numbers(r"known pixels ([\d.]+) dB", output)
    assert len(after) == 2 and min(after) > before + 1
    Image.open(out).verify()


@pytest.mark.slow
def test_learning_a_conditioning_vector(tmp_path):
    output = run("learn_conditioning", "--steps", 5, "--batch", 2, "--nfe", 4, "--out", tmp_path / "rows.png")
    before, after = numbers(r"ink ([\d.]+)", output)
    assert after > before + 0.02
    assert Image.open(tmp_path / "rows.png").width == 302


@pytest.mark.slow
@pytest.mark.parametrize("last", ["random", pytest.param(2, marks=pytest.mark.slow)])
def test_finetuning_towards_a_reward(tmp_path, last):
    arguments = ("--steps", 5, "--nfe", 3, "--last", last, "--out", tmp_path / "rows.png")
    before, after = numbers(r"reward (-[\d.]+)", run("finetune_reward", *arguments))
    assert after > before
    assert Image.open(tmp_path / "rows.png").width == 302


@pytest.mark.slow
@pytest.mark.parametrize(("method", "reward"), [("grpo", "ink"), ("ddpo", "slant"), ("exact", "ink")])
def test_policy_gradients(tmp_path, method, reward):
    sizes = ("--rounds", 2, "--classes", 2, "--group", 3, "--nfe", 3, "--held-out", 10, "--images", 20)
    arguments = ("--method", method, "--reward", reward, "--out", tmp_path / "rows.png", *sizes)
    output = run("policy_gradients", *arguments)
    assert len(numbers(r"FD-digits ([\d.]+)", output)) == 2
    (gain,) = numbers(rf"{method}: ([+-][\d.]+)", output)
    assert gain != 0 and Image.open(tmp_path / "rows.png").width == 302


@pytest.mark.slow
def test_auditing_the_classifier(tmp_path):
    output = run("audit_classifier", "--images", 4, "--steps", 6, "--nfe", 4, "--out", tmp_path / "audit.png")
    found, random = numbers(r": +(\d+) of", output)
    assert found > random
    Image.open(tmp_path / "audit.png").verify()


@pytest.mark.slow
def test_morphing(tmp_path):
    output = run("morph", "--images", 5, "--steps", 8, "--nfe", 4, "--out", tmp_path / "strip.png")
    before, after = numbers(r"length ([\d.]+)", output)
    assert after < before
    assert Image.open(tmp_path / "strip.png").width == 152


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a step of the inversion")
def test_inverting_images(tmp_path):
    output = run("invert_reconstruct", "--images", 2, "--nfe", 8, "--out", tmp_path / "rows.png")
    plain, iterated, alf, bdia = numbers(r"([\d.e+-]+) from the state", output)
    assert max(alf, bdia) < 1e-3 < plain and iterated < plain
    assert Image.open(tmp_path / "rows.png").size == (62, 152)


def test_terrain_says_how_to_get_its_network(monkeypatch):
    monkeypatch.setitem(sys.modules, "terrain_diffusion", None)
    said = run("terrain")
    assert "pip install adaptive-terrain-diffusion" in said and said.count("\n") == 1


class Hills:
    """What the package gives: a network D, here that of flat ground as high as it is difficult, and its own terrain."""

    native_size, num_classes, height_range, asinh_scale = 16, 100, 22.0, 0.1
    sigma_min, sigma_max, sigma_data = 0.002, 80.0, 0.5

    def __init__(self, device):
        self.session = self

    def run(self, outputs, told):
        assert outputs == ["denoised"] and told["sigma"].shape == told["difficulty"].shape == told["noisy"].shape[:1]
        ground = np.linspace(-1, 1, 16, dtype=np.float32) * told["difficulty"][:, None, None, None]
        trust = (told["sigma"] / (1 + told["sigma"]))[:, None, None, None]
        return [trust * ground + (1 - trust) * told["noisy"]]

    def generate(self, count, difficulty, seed):
        noise = np.random.default_rng(seed).standard_normal((count, 1, 16, 16), dtype=np.float32) * self.sigma_max
        labels = ((np.array(difficulty) - 1) / 99).astype(np.float32)
        x0 = self.run(["denoised"], {"noisy": noise, "sigma": np.full(count, 80, np.float32), "difficulty": labels})[0]
        metres = 0.1 * np.sinh((x0[:, 0].clip(-1, 1) + 1) / 2 * np.arcsinh(22 / 0.1))
        return metres - metres.min(axis=(1, 2), keepdims=True)


def test_terrain_of_one_evaluation_is_the_package_s_own(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "terrain_diffusion", SimpleNamespace(TerrainGenerator=Hills))
    said = run("terrain", "--difficulty", "20,90", "--nfe", "2", "--out", tmp_path / "hills.png")
    assert float(re.search(r"([\d.e+-]+) mm from the package", said)[1]) < 0.1
    assert re.findall(r"^(\w+), 2 evaluations", said, re.MULTILINE) == ["consistency", "ddim"]
    Image.open(tmp_path / "hills.png").verify()


@pytest.mark.slow
def test_an_example_is_a_script():
    result = subprocess.run(
        [sys.executable, EXAMPLES / "plug_into_pipeline.py", "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0 and "--solver" in result.stdout
