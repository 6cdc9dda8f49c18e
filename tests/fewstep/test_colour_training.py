"""The training of a colour network: it goes on to the bit where it stopped, and what it writes plays everywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from late import diffusers
from PIL import Image
from places import EXAMPLES
from safetensors.torch import load_file

from fewstep.cli import main
from fewstep.output.exclusive import exclusive
from fewstep.samplers.pipeline.source import load_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def script():
    """The training script as a module."""
    sys.path.insert(0, str(EXAMPLES))
    spec = importlib.util.spec_from_file_location("train_colours", EXAMPLES / "train_colours.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(EXAMPLES))
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise in the form of a set of three classes."""
    random, arrays = np.random.default_rng(0), {}
    for split, number in (("train", 24), ("test", 6)):
        arrays[f"{split}_images"] = random.integers(0, 256, (number, 8, 8, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(number) % 3
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def trained(script, data):
    """Runs the command: (its exit code, what it said)."""

    def run(out, steps, *more, data=data):
        small = ("--widths", "8,32", "--batch", "8", "--columns", "1")
        arguments = ("--data", data, "--out", out, *small, "--steps", steps, "--device", "cpu", *more)
        result = CliRunner().invoke(script.main, [str(a) for a in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, result.output

    return run


@pytest.fixture(scope="module")
def folder(script, data, tmp_path_factory):
    """What five updates without a break leave."""
    out = tmp_path_factory.mktemp("trained") / "out"
    arguments = ["--data", data, "--out", out, "--widths", "8,32", "--batch", 8, "--columns", 1, "--steps", 5]
    result = CliRunner().invoke(script.main, [str(a) for a in arguments] + ["--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out


def states(folder):
    return load_file(folder / "state.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_in_parts_is_the_unbroken_one(trained, folder, tmp_path):
    """Over the end of a round of three updates; the pipeline, the log and the picture, too."""
    assert trained(tmp_path / "out", 2)[0] == 0
    code, said = trained(tmp_path / "out", 5)
    assert code == 0 and "from update 2" in said and "ended after 5 updates" in said
    assert same(states(tmp_path / "out"), states(folder))
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert same(load_file(tmp_path / "out" / weights), load_file(folder / weights))
    parts, whole = ([json.loads(x) for x in (f / "log.jsonl").open()] for f in (tmp_path / "out", folder))
    assert [line["step"] for line in parts] == [2, 5] and parts[-1]["held_out"] == whole[-1]["held_out"]
    assert (tmp_path / "out" / "samples.png").read_bytes() == (folder / "samples.png").read_bytes()
    assert {p.name for p in folder.iterdir()} == {
        "log.jsonl", "model_index.json", "pipeline.py", "samples.png", "scheduler", "state.safetensors", "unet",
    }  # fmt: skip


def test_ctrl_c_ends_the_update_and_keeps_it(script, trained, folder, tmp_path, monkeypatch):
    update = script.Training.update

    def interrupted(training):
        if training.n_done == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return update(training)

    with monkeypatch.context() as patch:
        patch.setattr(script.Training, "update", interrupted)
        code, said = trained(tmp_path / "out", 5)
    assert code == 130 and "stopped after 2 updates" in said
    assert trained(tmp_path / "out", 5)[0] == 0
    assert same(states(tmp_path / "out"), states(folder))


def test_a_run_that_dies_while_it_writes_leaves_the_last_state(script, trained, folder, tmp_path, monkeypatch):
    """Whatever it was writing: the pipeline here, of which a part has come."""
    trained(tmp_path / "out", 2)

    def died(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("fewstep.demo.pipeline.shutil.copymode", died)
        with pytest.raises(AssertionError, match="killed"):
            trained(tmp_path / "out", 3)
    (tmp_path / "out" / ".part-left" / "unet").mkdir(parents=True)  # what a kill leaves
    code, said = trained(tmp_path / "out", 5)
    assert code == 0 and "from update 3" in said
    assert same(states(tmp_path / "out"), states(folder))
    assert not list((tmp_path / "out").glob(".part-*"))


def test_the_loss_of_untouched_pictures_falls(script, data):
    """On the averaged weights, always at the same times and noises."""
    import colour_pictures

    settings = script.Settings((8, 32), 1, 8, 1e-2, 0.1, 0, 8, 3, "")
    training = script.Training(settings, colour_pictures.load(data), CPU)
    first = training.held_out()
    assert training.held_out() == first
    for _ in range(30):
        training.update()
    assert training.held_out() < first


def test_every_picture_is_seen_once_a_round(script, data):
    import colour_pictures

    settings = script.Settings((8, 32), 1, 8, 1e-3, 0.1, 0, 8, 3, "")
    training = script.Training(settings, colour_pictures.load(data), CPU)
    rounds = []
    for _ in range(2):
        seen = []
        for _ in range(3):
            seen += training.picked().tolist()
            training.n_done += 1
        rounds.append(seen)
    assert sorted(rounds[0]) == sorted(rounds[1]) == list(range(24)) and rounds[0] != rounds[1]


def test_what_was_trained_plays(folder, tmp_path):
    """In the commands, in its own class, with guidance: a step from noise follows eps - x0."""
    out = tmp_path / "drawn.png"
    arguments = ["sample", str(folder), "--classes", "0,1,2", "--guidance", "2", "--nfe", "2", "-n", "3"]
    result = CliRunner().invoke(main, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert Image.open(out).mode == "RGB"
    pipe = load_pipeline(str(folder), CPU, torch.float32)
    assert pipe.null_class == 3 and isinstance(pipe.scheduler, diffusers.FlowMatchEulerDiscreteScheduler)
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x = pipe([0, 2], latents=noise, num_inference_steps=1, output_type="latent").images
    with torch.no_grad():
        want = noise - pipe.unet(noise, torch.tensor(1000.0), class_labels=torch.tensor([0, 2])).sample
    torch.testing.assert_close(x, want, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"classes 0\.\.2"):
        pipe([3])


@pytest.mark.slow
def test_diffusers_opens_it_in_another_process(folder):
    """By the line that lies in the folder, if code in folders is trusted; commands never run it."""
    code = (
        "import sys; from diffusers import DiffusionPipeline\n"
        "p = DiffusionPipeline.from_pretrained(sys.argv[1], custom_pipeline='pipeline', trust_remote_code=True)\n"
        "print(type(p).__name__, p([0], num_inference_steps=2).images[0].size)"
    )
    said = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "ClassConditionalPipeline (8, 8)"


def test_code_in_a_folder_is_not_run(tmp_path):
    for name in (["pipeline", "Own"], "Own"):
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
        (tmp_path / "pipeline.py").write_text("raise SystemExit('run')")
        with pytest.raises(ValueError, match="for Own, a class that diffusers does not have"):
            load_pipeline(str(tmp_path), CPU, torch.float32)


def test_pictures_of_every_form_are_the_same(script, data, tmp_path):
    import colour_pictures

    arrays = np.load(data)
    with ZipFile(tmp_path / "set.zip", "w") as archive:
        for split in ("train", "test"):
            for k, (image, label) in enumerate(zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True)):
                file = tmp_path / "set" / split / f"class{label}" / f"{k:03}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(file)
                archive.write(file, file.relative_to(tmp_path))
    found = [colour_pictures.load(path) for path in (tmp_path / "set", tmp_path / "set.zip")]
    assert found[0].names == found[1].names == ["class0", "class1", "class2"]
    assert found[0].digest() == found[1].digest()
    by_arrays = colour_pictures.load(data)
    for label in range(3):  # the arrays have them in another order
        of = [one.images["train"][one.labels["train"] == label] for one in (found[0], by_arrays)]
        assert torch.equal(*of)


def test_what_cannot_be_trained_is_told_in_a_sentence(trained, folder, data, tmp_path):
    out = tmp_path / "out"

    def refused(*arguments, **options):
        code, said = trained(*arguments, **options)
        assert code == 1 and said.startswith("Error: ") and said.count("\n") == 1, said
        return said

    assert "does not exist" in refused(out, 1, data=tmp_path / "none.npz")
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    assert "is no zip" in refused(out, 1, data=tmp_path / "bad.zip")
    assert "no pictures for train and test" in refused(out, 1, data=tmp_path)
    for shape, what in (((4, 8, 8), "must hold"), ((4, 8, 8, 1), "in colour"), ((0, 8, 8, 3), "train and test")):
        empty = {f"{s}_images": np.zeros(shape, np.uint8) for s in ("train", "test")}
        labels = {f"{s}_labels": np.zeros(shape[0], int) for s in ("train", "test")}
        np.savez(tmp_path / "odd.npz", **empty, **labels)
        assert what in refused(out, 1, data=tmp_path / "odd.npz")
    assert "are more than all 24" in refused(out, 1, "--batch", "25")
    assert "must be two to four multiples of 8" in refused(out, 1, "--widths", "9,32")
    assert "begun with lr = 0.001, not 0.002" in refused(folder, 6, "--lr", "0.002")
    with exclusive(out):
        assert "in use by another run" in refused(out, 1)
    for file in folder.rglob("*"):
        if file.is_file() and file.name != "state.safetensors":
            target = tmp_path / "copy" / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    assert "without the state of a training" in refused(tmp_path / "copy", 1)
    damaged = bytearray((folder / "state.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "copy" / "state.safetensors").write_bytes(damaged)
    assert "was changed or damaged" in refused(tmp_path / "copy", 6)


def test_a_classifier_is_trained_and_read_back(tmp_path):
    sys.path.insert(0, str(EXAMPLES))
    import colour_classifier

    sys.path.remove(str(EXAMPLES))
    random, arrays = np.random.default_rng(0), {}
    for split, number in (("train", 60), ("test", 30)):  # each class is a shade
        labels = np.arange(number) % 3
        noise = random.integers(0, 60, (number, 16, 16, 3))
        arrays |= {f"{split}_images": (noise + 90 * labels[:, None, None, None]).astype(np.uint8)}
        arrays |= {f"{split}_labels": labels}
    np.savez(tmp_path / "shades.npz", **arrays)
    out = tmp_path / "classifier.safetensors"
    command = ["--data", str(tmp_path / "shades.npz"), "--out", str(out), "--rounds", "60", "--device", "cpu"]
    told = CliRunner().invoke(colour_classifier.main, command)
    assert told.exit_code == 0, told.output
    right = float(told.output.partition("%")[0])
    assert right > 90
    network = colour_classifier.load(out)
    images = torch.from_numpy(arrays["test_images"].transpose(0, 3, 1, 2).copy())
    assert colour_classifier.share_right(network, images, torch.arange(30) % 3) == pytest.approx(right / 100, abs=0.04)
    assert network.features(images).shape == (30, 128)
    missing = CliRunner().invoke(colour_classifier.main, ["--data", str(tmp_path / "none.npz"), "--out", str(out)])
    assert missing.exit_code == 1 and "does not exist" in missing.output
