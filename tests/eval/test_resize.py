"""Resizing: closed forms, Pillow and torch, for any sizes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fewstep.eval.extractors.resize import (
    PROTOCOLS,
    centred_bilinear,
    pillow_bicubic,
    pillow_bilinear,
    resized,
    tf_bilinear,
)

AXES = (tf_bilinear, centred_bilinear, pillow_bicubic, pillow_bilinear)
sizes = st.integers(1, 400)


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@given(before=sizes, after=sizes)
@settings(max_examples=60, deadline=None)
def test_bilinear_of_a_ramp_is_where_the_pixel_comes_from(before, after):
    i, ramp = np.arange(after), np.arange(before)
    close = {"rtol": 0, "atol": 1e-6 * before}
    np.testing.assert_allclose(tf_bilinear(before, after) @ ramp, np.minimum(i * before / after, before - 1), **close)
    at = (i + 0.5) * before / after - 0.5
    np.testing.assert_allclose(centred_bilinear(before, after) @ ramp, at.clip(0, before - 1), **close)


@given(before=sizes, after=sizes)
@settings(max_examples=60, deadline=None)
def test_every_axis_keeps_constants_and_equal_sizes(before, after):
    for axis in AXES:
        np.testing.assert_allclose(axis(before, after).sum(1), 1, atol=1e-12)
        np.testing.assert_allclose(axis(before, before), np.eye(before), atol=1e-6)


@given(height=sizes, width=sizes, size=st.sampled_from([28, 57, 299]))
@settings(max_examples=15, deadline=None)
def test_pillow_is_met_on_every_size(height, width, size):
    image = noise(1, 1, height, width)
    picture = Image.fromarray(image[0, 0].numpy().astype(np.float32))
    for axis, filter in ((pillow_bicubic, Image.Resampling.BICUBIC), (pillow_bilinear, Image.Resampling.BILINEAR)):
        expected = np.asarray(picture.resize((size, size), filter)).clip(0, 255)
        np.testing.assert_allclose(resized(image, size, axis)[0, 0].numpy(), expected, rtol=0, atol=255e-6)


@given(height=sizes, width=sizes)
@settings(max_examples=15, deadline=None)
def test_torch_and_torch_fidelity_are_met_on_every_size(height, width):
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as tensorflow

    images = noise(1, 3, height, width)
    expected = F.interpolate(images.float(), (299, 299), mode="bilinear", align_corners=False)
    # torch has several kernels for this, which round the coordinate, in float32, differently
    coordinate = 2**-23 * (height + width)
    assert (resized(images, 299, centred_bilinear) - expected).abs().max() < 255 * (1e-6 + coordinate)
    expected = tensorflow(images.float(), (299, 299), align_corners=False)
    assert (resized(images, 299, tf_bilinear) - expected).abs().max() < 255e-6


def test_the_three_protocols_differ_where_they_should():
    images = noise(1, 3, 32, 32)
    prepared = {name: protocol(images) for name, protocol in PROTOCOLS.items()}
    assert all(x.shape == (1, 3, 299, 299) and x.dtype == torch.float32 for x in prepared.values())
    assert (prepared["tf"] - prepared["pytorch-fid"]).abs().mean() > 0.1  # half a pixel of noise
    assert (prepared["clean"] - prepared["pytorch-fid"]).abs().mean() > 0.01
    black, white = torch.zeros_like(images), torch.full_like(images, 255)
    for name, low, high in (("tf", -1, 127 / 128), ("pytorch-fid", -1, 1), ("clean", -1, 127 / 128)):
        np.testing.assert_allclose(PROTOCOLS[name](black), low, atol=1e-6)
        np.testing.assert_allclose(PROTOCOLS[name](white), high, atol=1e-6)


@pytest.mark.parametrize("axis", AXES)
def test_the_matrices_of_a_size_are_made_once_and_carry_no_inference_mode(axis):
    with torch.inference_mode():
        first = resized(noise(1, 3, 37, 41), 64, axis)
    images = noise(1, 3, 37, 41).float().requires_grad_()
    again = resized(images, 64, axis)
    again.sum().backward()  # a matrix made in inference mode would refuse
    assert torch.equal(first, again.detach()) and images.grad.isfinite().all()
