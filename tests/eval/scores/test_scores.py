"""Scores of single images: CLIP score against transformers' own, any function or model, one pass beside other metrics."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_clip
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor
from worded_pipelines import worded

import fewstep.eval as fe
from fewstep.cli import main

TEXTS = ["a fox", "two dogs", "a red house", "the sea", "a fox in snow", "no"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip.written(tmp_path_factory.mktemp("clip") / "tiny")


def pictures(n: int = 6, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, 3, 32, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def brightness(images: Any) -> Tensor:
    return torch.stack([image.float().mean() for image in images])


def theirs(clip: Path, images: Tensor, texts: list[str]) -> Tensor:
    """100 cos(image, text) by transformers itself, of PIL pictures one by one."""
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    found = []
    for image, text in zip(images, texts, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        with torch.no_grad():
            out = model(**processor(text=[text], images=[picture], return_tensors="pt", padding=True))
        found.append(100 * out.logits_per_image[0, 0] / model.logit_scale.exp())
    return torch.stack(found).detach()


def test_clip_score_is_that_of_transformers(clip: Path) -> None:
    images, how = pictures(), {"options": {"clip_score": {"weights": str(clip)}}, "progress": False}
    expected = theirs(clip, images, TEXTS)
    found = fe.score(images, TEXTS, **how)["clip_score"]
    assert found.value == pytest.approx(float(expected.mean()), abs=1e-4) and found.label == "CLIP-score"
    assert found.value == pytest.approx(float(expected.mean()), rel=1e-5)
    assert found.error == pytest.approx(float(expected.std()) / 6**0.5, rel=1e-4)
    assert found.details["weights"] == str(clip) and found.n == 6
    assert expected.std() > 0.1  # that order and prompts matter is seen below
    other = fe.score(images, TEXTS[::-1], batch_size=4, **how)["clip_score"]
    assert other.value == pytest.approx(float(theirs(clip, images, TEXTS[::-1]).mean()), rel=1e-5)
    assert other.value != pytest.approx(found.value, rel=1e-3)
    half = fe.score(images, TEXTS, options={"clip_score": {"weights": str(clip), "scale": 2.5}}, progress=False)
    assert half["clip_score"].value == pytest.approx(found.value / 40, rel=1e-6)


@pytest.mark.slow
def test_any_function_any_model(clip: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    images = pictures()
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    mine = {
        "light": brightness,
        "lengths": lambda images, prompts: [len(text) for text in prompts],
        "own": (model, processor),
    }
    report = fe.score(images, TEXTS, mine, progress=False)
    assert report["light"].value == pytest.approx(float(images.float().mean()), rel=1e-6)
    assert report["lengths"].value == pytest.approx(sum(map(len, TEXTS)) / 6)
    scale = float(model.logit_scale.exp()) / 100
    assert report["own"].value == pytest.approx(scale * float(theirs(clip, images, TEXTS).mean()), rel=1e-5)
    assert fe.score(images, scores=brightness, progress=False)["score"].value == pytest.approx(report["light"].value)
    assert fe.score(images, "one", mine["lengths"], progress=False)["score"].value == 3


@pytest.mark.slow
def test_one_logit_is_a_score() -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        num_labels=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model, processor = ViTForImageClassification(config).eval(), ViTImageProcessor(size={"height": 32, "width": 32})
    images = pictures(4)
    with torch.no_grad():
        expected = model(**processor(images=list(images), return_tensors="pt")).logits.mean()
    found = fe.score(images, scores=(model, processor), progress=False)["score"]
    assert found.value == pytest.approx(float(expected), rel=1e-5)
    two = ViTForImageClassification(ViTConfig(**{**config.to_dict(), "id2label": None, "num_labels": 2}))
    with pytest.raises(ValueError, match="tells 2 labels apart"):
        fe.score(images, scores=(two, processor))


def test_beside_other_metrics_in_one_pass_and_in_a_meter(clip: Path) -> None:
    images, how = pictures(), {"options": {"clip_score": {"weights": str(clip)}}, "extractor": "digits"}
    read: list[int] = []

    class Watched:
        def __len__(self) -> int:
            return 6

        def __getitem__(self, i: int) -> Tensor:
            read.append(i)
            return images[i]

    both = fe.evaluate("mnist", images, ("fid", "clip_score"), prompts=TEXTS, progress=False, **how)
    assert both["fid"].value == fe.fid("mnist", images, extractor="digits", progress=False).value
    alone = fe.score(Watched(), TEXTS, progress=False, options=how["options"])
    assert alone["clip_score"].value == both["clip_score"].value
    assert len(read) <= 12  # its fingerprint, and one pass
    meter = fe.Meter("mnist", ("fid", "clip_score"), batch_size=64, **how)
    meter.update(images[:4], prompts=TEXTS[:4])
    saved = meter.state_dict()
    meter = fe.Meter("mnist", ("fid", "clip_score"), batch_size=64, **how)
    meter.load_state_dict(saved)
    meter.update(images[4:], prompts=TEXTS[4:])
    assert meter.compute()["clip_score"].value == both["clip_score"].value
    assert meter.compute()["fid"].value == pytest.approx(both["fid"].value, rel=1e-12)


def test_by_name_at_the_command_line(clip: Path, tmp_path: Path) -> None:
    for i, image in enumerate(pictures()):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    (tmp_path / "words.txt").write_text("\n".join(TEXTS))
    words = ["eval", str(tmp_path), "--metrics", "clip_score", "--prompts", str(tmp_path / "words.txt")]
    result = CliRunner().invoke(main, [*words, "--metric-option", f"clip_score.weights={clip}"])
    expected = fe.score(pictures(), TEXTS, options={"clip_score": {"weights": str(clip)}}, progress=False)["clip_score"]
    assert result.exit_code == 0, result.output
    assert re.search(r"CLIP-score.*" + re.escape(f"{expected.value:.6g}"), result.output), result.output


def test_registered_scores_are_metrics() -> None:
    @fe.register_score("light_of_test", "a test", higher_is_better=False)
    def light(times: float = 1.0) -> Any:
        return lambda images: times * brightness(images)

    try:
        (found,) = fe.evaluate(None, pictures(), ("light_of_test",), options={"light_of_test": {"times": 2.0}}).values()
        assert found.value == pytest.approx(2 * float(pictures().float().mean()), rel=1e-6)
        assert found.label == "light_of_test" and not found.higher_is_better
    finally:
        fe.METRICS.remove("light_of_test")


def test_bad_input(clip: Path) -> None:
    images, how = pictures(), {"options": {"clip_score": {"weights": str(clip)}}, "progress": False}
    with pytest.raises(ValueError, match="5 prompts were given for 6 images"):
        fe.score(images, TEXTS[:5], **how)
    with pytest.raises(ValueError, match="clip_score is of images and their prompts: give prompts="):
        fe.score(images, **how)
    with pytest.raises(ValueError, match="prompts are texts; number 1 is int"):
        fe.score(images, ["a", 2, "c", "d", "e", "f"], **how)
    with pytest.raises(ValueError, match=r"one number an image; it gave the shape \(3, 2\)"):
        fe.score(images[:3], scores=lambda images: torch.zeros(3, 2), progress=False)
    with pytest.raises(ValueError, match="score 'score' of image 0 is NaN or infinite"):
        fe.score(images, scores=lambda images: brightness(images) * float("nan"), progress=False)
    with pytest.raises(ValueError, match="scores are of images, and these are features"):
        fe.evaluate(None, "mnist", ("clip_score",), prompts=TEXTS)
    with pytest.raises(FileNotFoundError, match="is not on this machine.*--download"):
        fe.score(images, TEXTS, options={"clip_score": {"weights": "nobody/nothing"}}, progress=False)


class Levels(torch.nn.Module):
    """In the place of the package: the mean of squares of the difference."""

    def __init__(self, net: str, verbose: bool) -> None:
        super().__init__()
        assert net == "vgg" and not verbose

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().mean((1, 2, 3), keepdim=True)


def test_images_of_one_number_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=Levels))
    real, generated = pictures(6, 0), pictures(6, 1)
    how: dict[str, Any] = {"options": {"lpips_pairs": {"net": "vgg"}}, "progress": False, "batch_size": 4}
    found = fe.evaluate(real, generated, ("lpips_pairs",), **how)["lpips_pairs"]
    expected = ((real.double() - generated.double()) / 127.5).square().mean()
    assert found.value == pytest.approx(float(expected), rel=1e-5) and not found.higher_is_better
    both = fe.evaluate(real, generated, ("kid_full", "lpips_pairs"), extractor="digits", **how)
    assert both["lpips_pairs"].value == found.value
    with pytest.raises(ValueError, match="5 real images and 6 generated ones"):
        fe.evaluate(real[:5], generated, ("lpips_pairs",), **how)
    with pytest.raises(ValueError, match="give the real images"):
        fe.evaluate(None, generated, ("lpips_pairs",), **how)


def test_prompts_of_a_model_are_those_that_it_draws_from() -> None:
    pipe, rest = worded("sd")
    seen: list[str] = []

    @fe.register_score("letters_of_test")
    def letters_of_test() -> Any:
        def count(images: Tensor, prompts: Any) -> Tensor:
            seen.extend(prompts)
            return torch.tensor([float(len(prompt)) for prompt in prompts])

        return count

    try:
        call = {**rest, "prompt": ["a", "a b", "a b c"]}
        how: dict[str, Any] = {"evaluation": {"progress": False}, "batch_size": 2, "call": call}
        told = fe.curve(pipe, ("ddim",), (2,), None, ("letters_of_test",), 5, 1, **how)
    finally:
        fe.METRICS.remove("letters_of_test")
    assert seen == ["a b", "a b c", "a", "a b", "a b c"]
    (point,) = told.points
    assert point.report["letters_of_test"].value == pytest.approx((3 + 5 + 1 + 3 + 5) / 5)


def test_a_meter_compares_images_with_their_originals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=Levels))
    real, generated = pictures(7, 0), pictures(7, 1)
    how: dict[str, Any] = {"options": {"lpips_pairs": {"net": "vgg"}}, "batch_size": 4}
    expected = fe.evaluate(real, generated, ("lpips_pairs",), progress=False, **how)["lpips_pairs"].value
    meter = fe.Meter(None, ("lpips_pairs",), **how)
    meter.update(generated[:3], originals=real[:3]).update(generated[3:6], originals=list(real[3:6]))
    other = fe.Meter(None, ("lpips_pairs",), **how)
    other.load_state_dict(meter.state_dict())  # two images wait
    meter.update(generated[6:], originals=real[6:])
    assert meter.compute()["lpips_pairs"].value == pytest.approx(expected, rel=1e-12)
    last = fe.Meter(None, ("lpips_pairs",), **how).update(generated[6:], originals=real[6:])
    assert other.merge(last).compute()["lpips_pairs"].value == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="got 3 images and 2 of these"):
        meter.update(generated[:3], originals=real[:2])
    with pytest.raises(ValueError, match=r"update\(images, originals="):
        meter.update(generated[:3])
    with pytest.raises(ValueError, match="no metric of this Meter"):
        fe.Meter("mnist", ("fid",), extractor="digits").update(generated, originals=real)


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match="pip install lpips"):
        fe.evaluate(pictures(), pictures(), ("lpips_pairs",), progress=False)
