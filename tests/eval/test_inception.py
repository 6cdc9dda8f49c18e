"""The Inception network: the numbers of torch-fidelity, pytorch-fid and clean-fid from one set of random weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from late import Late
from random_inception import random_state, smooth_images

from fewstep import eval as fe
from fewstep.eval.extractors import extractor

inception = Late("fewstep.eval.extractors.inception")  # slow to import, as torchvision is
TAPS = ("64", "192", "768", "2048", "logits_unbiased", "logits")


@pytest.fixture(scope="module")
def state():
    return random_state()


@pytest.fixture(scope="module")
def ours(state):
    return inception.InceptionV3(state)


@pytest.fixture(scope="module")
def pytorch_fid(state):
    """pytorch-fid's own network, given our weights in place of its download."""
    from pytorch_fid import inception

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: state)
        return inception.InceptionV3([0, 1, 2, 3], resize_input=True, normalize_input=True).eval()


def apart(a, b):
    """Largest difference, relative to the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("shape", [(32, 32), (60, 340)])
def test_tf_features_are_torch_fidelitys(state, ours, shape, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as peer

    monkeypatch.setattr(peer, "load_state_dict_from_url", lambda *_, **__: state)
    theirs = peer.FeatureExtractorInceptionV3("peer", list(TAPS))
    images = smooth_images(3, *shape)
    with torch.no_grad():
        expected = dict(zip(TAPS, theirs(images), strict=True))
    found = ours(images, TAPS)
    for tap in TAPS:
        assert found[tap].shape == (3, ours.layers[tap]) and found[tap].dtype == torch.float32
        assert apart(found[tap], expected[tap]) < 1e-5, tap
        assert expected[tap].std(0).mean() > 1e-3 * expected[tap].abs().max()  # the features do tell the images apart


@pytest.mark.parametrize("shape", [(32, 32), (340, 60)])
def test_pytorch_fid_features_are_pytorch_fids(state, pytorch_fid, shape):
    images = smooth_images(3, *shape)
    with torch.no_grad():
        expected = [y.mean((2, 3)) for y in pytorch_fid(images.float() / 255)]
    found = inception.InceptionV3(state, protocol="pytorch-fid")(images, TAPS)
    for tap, features in zip(TAPS, expected, strict=False):
        assert apart(found[tap], features) < 1e-5, tap


@pytest.mark.parametrize("shape", [(32, 40), (420, 350)])
def test_clean_features_are_those_of_clean_fids_resize(state, pytorch_fid, shape, monkeypatch):
    from cleanfid.resize import build_resizer

    images, resize = smooth_images(2, *shape), build_resizer("clean")
    prepared = torch.stack([torch.from_numpy(resize(image.permute(1, 2, 0).numpy())) for image in images])
    monkeypatch.setattr(pytorch_fid, "resize_input", False)
    monkeypatch.setattr(pytorch_fid, "normalize_input", False)
    with torch.no_grad():
        expected = pytorch_fid((prepared.permute(0, 3, 1, 2) - 128) / 128)[3].flatten(1)
    assert apart(inception.InceptionV3(state, protocol="clean")(images), expected) < 1e-5


def test_in_float64_the_rewritten_network_is_the_plain_one(state, pytorch_fid):
    """Folding, merging and pooling after the 1x1 convolution change nothing: 1e-10 against pytorch-fid's modules."""
    x = torch.randn(1, 3, 299, 299, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = inception.Network(state, torch.float64)(x, {*TAPS, "sfid"})
    seen, blocks = {}, pytorch_fid.blocks.double()
    hook = blocks[2][-2].branch1x1.register_forward_hook(lambda _, __, out: seen.update(out=out))
    try:
        for tap, block in zip(TAPS, blocks, strict=False):
            x = block(x)
            assert apart(found[tap], x.mean((2, 3))) < 1e-10, tap
    finally:
        hook.remove()
        pytorch_fid.float()
    assert apart(found["sfid"].view(1, 17, 17, 7), seen["out"][:, :7].permute(0, 2, 3, 1)) < 1e-10
    logits = found["2048"] @ state["fc.weight"].double().T
    assert apart(found["logits_unbiased"], logits) < 1e-10
    assert apart(found["logits"], logits + state["fc.bias"]) < 1e-10


def plain_block(state, name):
    from fewstep.eval.extractors.inception import _plain

    network = _plain()
    network.load_state_dict(state, strict=False, assign=True)
    return getattr(network.eval(), name)


@pytest.mark.parametrize("name", ["Mixed_5b", "Mixed_6c", "Mixed_7b"])
def test_average_pools_do_not_count_the_padding(state, name):
    """torchvision's own block agrees inside and differs along the edge."""
    block = plain_block(state, name)
    x = torch.rand(1, block.branch1x1.conv.in_channels, 9, 9, generator=torch.Generator().manual_seed(0))
    pooled = block.branch_pool.conv.out_channels
    with torch.no_grad():
        found, theirs = inception.Branches(block, inception.BLOCKS[name]).float()(x), block(x)
        means = (
            F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1) * 9 / F.avg_pool2d(F.pad(torch.ones(1, 1, 9, 9), (1,) * 4), 3, 1)
        )
        expected = block.branch_pool(means / 9)
    assert apart(found[:, -pooled:], expected) < 1e-5
    assert apart(found[:, :-pooled], theirs[:, :-pooled]) < 1e-5
    assert apart(found[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1]) < 1e-5
    assert apart(found[:, -pooled:, 0], theirs[:, -pooled:, 0]) > 1e-2


def test_the_last_block_pools_by_the_maximum(state):
    block = plain_block(state, "Mixed_7c")
    x = torch.randn(1, 2048, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, theirs = inception.Branches(block, inception.BLOCKS["Mixed_7c"]).float()(x), block(x)
        expected = block.branch_pool(F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-torch.inf), 3, 1))
    assert apart(found[:, -192:], expected) < 1e-5
    assert apart(found[:, :-192], theirs[:, :-192]) < 1e-5
    assert apart(found[:, -192:], theirs[:, -192:]) > 1e-2


@pytest.mark.slow
def test_features_do_not_depend_on_the_batch_or_on_its_sizes(ours):
    small, wide = smooth_images(5, 40, 40), smooth_images(2, 24, 80, seed=1)
    images = [small[0], wide[0], *small[1:], wide[1]]
    together = ours(images)
    alone = torch.cat([ours(image[None]) for image in images])
    assert together.shape == (7, 2048) and apart(together, alone) < 1e-5
    assert apart(ours(small), together[[0, 2, 3, 4, 5]]) < 1e-5


def test_nothing_is_computed_after_the_last_layer_that_is_asked_for(state):
    network = inception.InceptionV3(state)

    def reached(*_):
        raise AssertionError("computed a stage that nobody needs")

    network.network.stages["192"].register_forward_pre_hook(reached)
    assert network(smooth_images(1, 32, 32), ["64"])["64"].shape == (1, 64)
    with pytest.raises(AssertionError):
        network(smooth_images(1, 32, 32), ["192"])


def test_precision_settings_and_autocast_of_the_program_do_not_leak_in(ours):
    images = smooth_images(2, 32, 32)
    expected = ours(images, ["2048", "logits"])
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            found = ours(images, ["2048", "logits"])
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before[0])
    assert all(torch.equal(found[layer], expected[layer]) for layer in found)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


def test_the_network_is_frozen(ours):
    assert not ours(smooth_images(1, 16, 16)).requires_grad
    assert not any(w.requires_grad for w in ours.parameters()) and not ours.network.training


@pytest.mark.slow
def test_fast_is_near_says_so_and_has_the_hash_of_the_same_weights(state, ours):
    fast, images = inception.InceptionV3(state, fast=True), smooth_images(4, 32, 32)
    assert (fast.precision, ours.precision) == ("bf16", "fp32")
    assert fast.hash == ours.hash == inception.InceptionV3(state, protocol="clean").hash
    assert inception.InceptionV3({**state, "fc.bias": state["fc.bias"] + 1e-3}).hash != ours.hash
    shift = apart(fast(images), ours(images))
    assert 1e-5 < shift < 3e-2


@pytest.mark.slow
def test_compiled_gives_the_same_numbers_for_any_number_of_images(state, ours):
    compiled, images = inception.InceptionV3(state, compile=True), smooth_images(8, 32, 32)
    found, expected = compiled(images, ["2048", "sfid"]), ours(images, ["2048", "sfid"])
    assert all(apart(found[layer], expected[layer]) < 1e-5 for layer in found)


def test_another_layer_may_be_the_main_one_and_is_in_the_name(state, ours, tmp_path):
    """pytorch-fid's dims; a file of statistics says its layer, which is then taken without being named."""
    images, how = smooth_images(4, 16, 16), {"weights": state, "progress": False}
    network = inception.InceptionV3(state, layer=64)
    assert torch.equal(network(images), ours(images, ["64"])["64"]) and ours.parts["main"] == "2048"
    fe.stats(images, tmp_path / "ref.npz", extractor=network, progress=False)
    found = fe.fid(tmp_path / "ref.npz", images.flip(3), **how)
    assert found.layer == "64" and found.label == "FD-inception-64" and "layer 64" in " ".join(found.features)
    with pytest.raises(ValueError, match="64 and 2048 dimensions.*--layer"):
        fe.fid(tmp_path / "ref.npz", images, layer="2048", **how)
    with pytest.raises(ValueError, match="unknown layer of inception '65'"):
        inception.InceptionV3(state, layer=65)


def test_bad_requests_are_named(state, ours):
    with pytest.raises(ValueError, match="unknown protocol 'cleann'. Did you mean 'clean'"):
        extractor("inception", weights=state, protocol="cleann")
    with pytest.raises(ValueError, match="unknown layer of inception '2049'.*'2048'"):
        ours(smooth_images(1, 8, 8), ["2049"])
    with pytest.raises(ValueError, match="at least one image"):
        ours([])
    with pytest.raises(ValueError, match=r"uint8 images of shape \(B, 3, H, W\); got torch.float32"):
        ours(torch.from_numpy(np.zeros((1, 3, 8, 8), np.float32)))
