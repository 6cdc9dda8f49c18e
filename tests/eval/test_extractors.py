"""Extractors other than Inception: the embedded digits, DINOv2, CLIP, any function; settings that are put back."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from random_inception import smooth_images

import fewstep
import fewstep.demo
from fewstep.eval.extractors import Function, extractor
from fewstep.eval.extractors.precision import exact_arithmetic


def grey(count, size, seed=0):
    return smooth_images(count, size, size, seed)[:, :1].expand(-1, 3, -1, -1).contiguous()


def test_digits_are_the_embedded_classifiers_features_and_logits():
    digits, images = extractor("digits"), grey(5, 28)
    network, x = fewstep.demo.load_demo_classifier(), images[:, :1].float() / 127.5 - 1
    assert digits.parts == {"main": "features", "logits": "logits"} and digits.protocol == "28x28"
    found = digits(images, ["features", "logits"])
    with torch.no_grad():
        torch.testing.assert_close(found["features"], network.features(x))
        torch.testing.assert_close(found["logits"], network(x))
    assert digits(images).shape == (5, 64) and digits.hash == extractor("digits").hash


def test_digits_of_other_sizes_are_reduced_first():
    digits, large = extractor("digits"), grey(3, 56)
    picture = [Image.fromarray(image[0].numpy().astype(np.float32)).resize((28, 28), Image.BILINEAR) for image in large]
    x = torch.from_numpy(np.stack([np.asarray(p) for p in picture]))[:, None] / 127.5 - 1
    with torch.no_grad():
        torch.testing.assert_close(digits(large), fewstep.demo.load_demo_classifier().features(x))
    mixed = digits([*large, *grey(2, 28)])
    torch.testing.assert_close(mixed, torch.cat([digits(large), digits(grey(2, 28))]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny random transformers on disk."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("towers")
    tiny = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}
    Dinov2Model(Dinov2Config(image_size=28, **tiny)).save_pretrained(root / "dinov2")
    config = CLIPVisionConfig(image_size=56, intermediate_size=64, projection_dim=24, **tiny)
    CLIPVisionModelWithProjection(config).save_pretrained(root / "clip")
    return root


def by_pillow(images, size, mean, deviation):
    """The same preprocessing channel by channel in Pillow."""
    channels = [Image.fromarray(c.numpy().astype(np.float32)) for image in images for c in image]
    arrays = [np.asarray(c.resize((size, size), Image.BICUBIC)).clip(0, 255) / 255 for c in channels]
    x = torch.from_numpy(np.stack(arrays)).view(len(images), 3, size, size).float()
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]


def test_dinov2_is_the_class_token_of_the_squashed_image(folders):
    dino, images = extractor("dinov2", weights=folders / "dinov2"), smooth_images(3, 300, 250)
    assert (
        dino.published is False and extractor("clip", weights=folders / "clip").published is False
    )  # told by their hash
    x = by_pillow(images, 224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = dino.tower(x).pooler_output
    assert dino.layers == {"cls": 32} and dino.protocol == "224 bicubic" and len(dino.hash) == 16
    torch.testing.assert_close(dino(images), expected, rtol=1e-4, atol=1e-4)


def test_dinov2_by_the_protocol_of_dgm_eval(folders):
    """Pillow's own bicubic of pictures of 8 bits; one pixel in a hundred is a level off, by its fixed-point weights."""
    from PIL import Image

    dino, images = extractor("dinov2", weights=folders / "dinov2", protocol="dgm-eval"), smooth_images(3, 300, 250)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()).resize((224, 224), Image.BICUBIC) for image in images]
    expected = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() for picture in pictures])
    ours = dino.prepare(images) * dino.deviation + dino.mean
    apart = (ours - expected).abs()
    assert apart.max() < 2.01 and (apart > 0.01).double().mean() < 0.02 and (apart > 1.01).double().mean() < 1e-4
    assert dino.protocol == "dgm-eval"
    with pytest.raises(ValueError, match="`protocol` of dinov2"):
        extractor("dinov2", weights=folders / "dinov2", protocol="tf")


def test_clip_is_projected_and_of_unit_length(folders):
    clip, images = extractor("clip", weights=folders / "clip"), smooth_images(3, 40, 90)
    x = by_pillow(images, 56, [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    with torch.no_grad():
        expected = torch.nn.functional.normalize(clip.tower(x).image_embeds)
    found = clip(images)
    assert clip.layers == {"projected": 24} and clip.protocol == "56 bicubic"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize(
    ("download", "said"),
    [(False, "not on this machine.*allow the download"), (True, "neither on this machine nor could it be fetched")],
)
@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_a_model_that_is_nowhere_is_one_sentence(name, download, said, tmp_path):
    with pytest.raises(FileNotFoundError, match=said) as error:
        extractor(name, weights=tmp_path / "absent", download=download)
    assert "\n" not in str(error.value)


def test_without_transformers_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="pip install transformers"):
        extractor("dinov2")


def test_any_function_is_an_extractor():
    mean = Function(lambda images: images.float().mean((2, 3)), dim=3, name="mean colour", size=16)
    images = smooth_images(2, 32, 32)
    torch.testing.assert_close(mean(images), images.float().mean((2, 3)), rtol=0, atol=1)
    assert mean.name == "mean colour" and mean.device == torch.device("cpu")
    with pytest.raises(ValueError, match=r"said to give 4 features an image; it gave the shape \(2, 3\)"):
        Function(lambda images: images.float().mean((2, 3)), dim=4)(images)


def test_an_unknown_extractor_has_near_names():
    with pytest.raises(ValueError, match="unknown extractor 'inceptionv3'. Did you mean 'inception'"):
        extractor("inceptionv3")


def settings():
    backends = torch.backends
    found = [torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32]
    if hasattr(backends.cudnn, "conv"):
        places = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
        found += [place.fp32_precision for place in places]
    return found


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", [True, False])
def test_exact_arithmetic_switches_all_rounding_off_and_puts_it_back(precision, convolutions):
    original = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions
        before = settings()
        with (
            pytest.raises(KeyError),
            torch.autocast("cpu", torch.bfloat16),
            exact_arithmetic(torch.device("cpu")),
        ):
            assert settings()[:3] == ["highest", False, False] and set(settings()[3:]) <= {"ieee"}
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            raise KeyError
        assert settings() == before
    finally:
        torch.set_float32_matmul_precision(original[0])
        torch.backends.cudnn.allow_tf32 = original[1]
