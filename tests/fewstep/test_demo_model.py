"""The embedded digits model: a real diffusers pipeline that draws the digit it is asked for."""

import importlib.util
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from late import diffusers
from places import EXAMPLES

import fewstep
import fewstep.demo
from fewstep.samplers.pipeline.source import load_pipeline

NO_CLASS = 10  # its embedding is that of no digit


@pytest.fixture(scope="module")
def pipe():
    return fewstep.load_demo_pipeline()


def seeded(*seeds):
    """One generator for one seed, a list for several."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(seeds) > 1 else generators[0]


def draw(pipe, labels, generator, n=3, **options):
    options = {"output_type": "latent", **options}
    return pipe(labels, num_inference_steps=n, generator=generator, **options).images


def test_is_a_diffusers_pipeline_of_the_promised_size(pipe):
    assert isinstance(pipe, diffusers.DiffusionPipeline) and pipe.unet.dtype == torch.float32
    assert 1.0e6 < sum(p.numel() for p in pipe.unet.parameters()) < 1.2e6
    assert all(torch.isfinite(p).all() for p in pipe.unet.parameters())
    assert fewstep.load_demo_pipeline(dtype=torch.float64).unet.dtype == torch.float64


def test_import_brings_no_torch():
    code = "import sys, fewstep.demo; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("scale, each, n", [(1.0, 3, 12), (2.0, 1, 10)])
def test_draws_the_digit_asked_for(pipe, scale, each, n):
    labels = torch.arange(10).repeat(each)
    images = draw(pipe, labels, seeded(0), n=n, guidance_scale=scale, output_type="pt")
    guesses = fewstep.demo.load_demo_classifier()(images * 2 - 1).argmax(1)
    assert (guesses == labels).float().mean() >= 0.9


def test_digits_of_no_class_vary(pipe):
    guesses = fewstep.demo.load_demo_classifier()(draw(pipe, None, seeded(3), n=10, batch_size=24)).argmax(1)
    assert len(guesses.unique()) >= 4


def test_classifier_has_features_and_gradients():
    classifier = fewstep.demo.load_demo_classifier()
    x = torch.randn(2, 1, 28, 28, generator=seeded(0)).requires_grad_()
    assert classifier.features(x).shape == (2, 64)
    torch.testing.assert_close(classifier.head(classifier.features(x)), classifier(x))
    classifier(x).logsumexp(1).sum().backward()
    assert x.grad.abs().sum() > 0


def test_same_generator_same_image(pipe):
    a, b, c = (draw(pipe, [3, 7], seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c, atol=0.1)


def test_a_list_of_generators_frees_images_of_their_batch(pipe):
    both = draw(pipe, [3, 7], seeded(4, 5))
    one = torch.cat([draw(pipe, 3, seeded(4)), draw(pipe, 7, seeded(5))])
    torch.testing.assert_close(both, one, atol=1e-4, rtol=1e-4)


def test_latents_are_the_start(pipe):
    latents = torch.randn(2, 1, 28, 28, generator=seeded(8))
    start = latents.clone()
    torch.testing.assert_close(draw(pipe, 5, None, latents=latents), draw(pipe, [5, 5], seeded(8)))
    assert torch.equal(latents, start)


def test_save_and_load_round_trip(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = type(pipe).from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(draw(pipe, [1, 2], seeded(0)), draw(again, [1, 2], seeded(0)))
    assert type(again.scheduler) is type(pipe.scheduler)


def test_guidance_is_the_extrapolation_from_the_null_class(pipe):
    with torch.no_grad():
        x = torch.randn(2, 1, 28, 28, generator=seeded(0))
        outputs = [pipe.unet(x, 999, class_labels=torch.tensor(c)).sample for c in ([4, 4], [NO_CLASS] * 2)]
    seen = []
    step = pipe.scheduler.step
    pipe.scheduler.step = lambda output, *args, **options: seen.append(output) or step(output, *args, **options)
    try:
        draw(pipe, [4, 4], None, n=1, latents=x, guidance_scale=3.0)
        draw(pipe, [4, 4], None, n=1, latents=x)
    finally:
        del pipe.scheduler.step
    torch.testing.assert_close(seen[0], 3 * outputs[0] - 2 * outputs[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen[1], outputs[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)


def test_output_types_agree(pipe):
    kinds = {k: draw(pipe, [2, 6], seeded(0), output_type=k) for k in ("latent", "pt", "np", "pil")}
    torch.testing.assert_close(kinds["pt"], (kinds["latent"] / 2 + 0.5).clamp(0, 1))
    np.testing.assert_array_equal(kinds["np"][..., 0], kinds["pt"][:, 0].numpy())
    for image, array in zip(kinds["pil"], kinds["np"], strict=True):
        assert image.size == (28, 28) and image.mode == "L"
        assert np.abs(np.asarray(image) / 255 - array[..., 0]).max() <= 0.5001 / 255
    (latent,) = pipe([2, 6], num_inference_steps=3, generator=seeded(0), output_type="latent", return_dict=False)
    assert torch.equal(latent, kinds["latent"])


def test_callback_sees_and_replaces_the_state(pipe):
    seen = []

    def callback(pipeline, i, t, tensors):
        seen.append((i, int(t)))
        return {"latents": torch.zeros_like(tensors["latents"])} if i == 2 else None

    images = draw(pipe, 1, seeded(0), callback_on_step_end=callback)
    assert [i for i, _ in seen] == [0, 1, 2] and [t for _, t in seen] == pipe.scheduler.timesteps.tolist()
    assert not images.any()


def test_explicit_timesteps_reach_a_scheduler_that_takes_them(pipe):
    other = type(pipe)(pipe.unet, diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config))
    other.set_progress_bar_config(disable=True)
    times = []
    draw(other, 1, seeded(0), timesteps=[900, 500, 100], callback_on_step_end=lambda p, i, t, k: times.append(int(t)))
    assert times == [900, 500, 100]
    with pytest.raises(ValueError, match="DDIMScheduler.set_timesteps takes no timesteps"):
        draw(pipe, 1, seeded(0), timesteps=[900, 500, 100])
    with pytest.raises(ValueError, match="takes no sigmas"):
        draw(other, 1, seeded(0), sigmas=[100.0, 1.0])
    euler = type(pipe)(pipe.unet, diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config))
    euler.set_progress_bar_config(disable=True)
    draw(euler, 1, seeded(0), sigmas=[100.0, 1.0, 0.0])
    assert euler.scheduler.sigmas[:2].tolist() == [100.0, 1.0]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(class_labels=10), "digits 0..9"),
        (dict(class_labels=[1, -1]), "digits 0..9"),
        (dict(class_labels=[0.5]), "digits 0..9"),
        (dict(class_labels=[]), "digits 0..9"),
        (dict(class_labels=[1, 2], batch_size=3), "2 class labels for batch_size=3"),
        (dict(batch_size=0), "batch_size"),
        (dict(class_labels=1, latents=torch.zeros(1, 1, 32, 32)), r"\(1, 1, 28, 28\)"),
        (dict(class_labels=[1, 2], latents=torch.zeros(3, 1, 28, 28)), r"\(2, 1, 28, 28\)"),
        (dict(num_inference_steps=0), "num_inference_steps"),
        (dict(num_inference_steps=2.5), "num_inference_steps"),
        (dict(guidance_scale=float("nan")), "guidance_scale"),
        (dict(batch_size=3, generator=[torch.Generator()] * 2), "2 generators for 3 images"),
        (dict(output_type="jpg"), "output_type"),
        (dict(callback_on_step_end_tensor_inputs=("noise",)), "noise"),
    ],
)
def test_bad_input_is_refused_before_any_network_call(pipe, options, message):
    calls = []
    handle = pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        with pytest.raises(ValueError, match=message):
            pipe(**options)
    finally:
        handle.remove()
    assert not calls


@pytest.fixture(scope="module")
def script():
    """The training script as a module."""
    path = EXAMPLES / "train_digits.py"
    spec = importlib.util.spec_from_file_location("train_digits", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path):
    """Noise in the form of the digits data set."""
    random = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = random.integers(0, 256, (256, 28, 28), np.uint8)
        arrays[f"{split}_labels"] = random.integers(0, 10, 256, np.uint8)
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_training_that_was_interrupted_ends_where_the_other_does(script, data, tmp_path, kind):
    digits = script.load_digits(data)["train"]
    assert digits[0].shape == (256, 1, 28, 28) and digits[0].min() == -1 and digits[0].max() == 1

    def start(weights_seed):
        torch.manual_seed(weights_seed)
        return script.Training(kind, torch.device("cpu"), 1e-3, 0.9, False, seed=weights_seed)

    straight, first, second = start(0), start(0), start(1)
    straight_losses = [straight.step(*digits, 4, 0.1) for _ in range(4)]
    losses = [first.step(*digits, 4, 0.1) for _ in range(2)]
    first.save(tmp_path / "checkpoint.pt")
    second.restore(tmp_path / "checkpoint.pt")
    losses += [second.step(*digits, 4, 0.1) for _ in range(2)]
    assert losses == straight_losses and second.n_done == 4
    for a, b in zip(straight.ema.shadow_params, second.ema.shadow_params, strict=True):
        assert torch.equal(a, b)


def test_the_transformer_is_exported_and_plays_in_the_pipeline(script, data, tmp_path):
    torch.manual_seed(0)
    training = script.Training("dit", torch.device("cpu"), 1e-3, 0.9, False, seed=0)
    training.step(*script.load_digits(data)["train"], 4, 0.1)
    script.export(training.ema, "dit", tmp_path)
    pipe = load_pipeline(str(tmp_path), torch.device("cpu"), torch.float32)
    assert type(pipe) is script.DigitsPipeline and pipe.null_class == NO_CLASS
    assert isinstance(script.opened(tmp_path), diffusers.DiTTransformer2DModel)
    images = pipe([1, 2], guidance_scale=2.0, num_inference_steps=2, output_type="pt").images
    assert images.shape == (2, 1, 28, 28) and bool(images.isfinite().all())


@pytest.mark.slow
def test_the_training_command_writes_a_model_and_resumes(script, data, tmp_path):
    out = tmp_path / "out"
    options = ["--data", str(data), "--out", str(out), "--batch", "4", "--samples", "10", "--nfe", "2"]
    for extra in (["--steps", "2"], ["--steps", "3", "--resume"]):
        result = CliRunner().invoke(script.main, options + extra, catch_exceptions=False)
        assert result.exit_code == 0 and "samples are as asked" in result.output
    assert torch.load(out / "checkpoint.pt", weights_only=True)["n_done"] == 3
    assert {p.name for p in out.iterdir()} == {
        "checkpoint.pt", "classifier.safetensors", "model_index.json", "pipeline.py", "samples-guidance-1.png",
        "samples-guidance-2.png", "scheduler", "unet",
    }  # fmt: skip
    assert (
        diffusers.UNet2DModel.from_pretrained(out / "unet").num_parameters()
        == fewstep.load_demo_pipeline().unet.num_parameters()
    )
    result = CliRunner().invoke(script.main, ["--out", str(tmp_path / "empty"), "--resume"])
    assert result.exit_code == 2 and "checkpoint.pt" in result.output


def test_loading_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """No warning of diffusers about how precision is asked for, in either precision."""
    from diffusers.utils import logging

    logging.enable_propagation()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            for dtype in (None, torch.bfloat16):
                assert fewstep.load_demo_pipeline(dtype=dtype).unet.dtype == (dtype or torch.float32)
    finally:
        logging.disable_propagation()
    assert not caplog.records
