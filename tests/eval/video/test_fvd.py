"""Clips as samples: which frames they are, and the Frechet distance of their features, of any network of clips."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

import fewstep.eval as fe
from fewstep.cli import main

HOW: dict[str, Any] = {"progress": False}


def motion(clips: Tensor) -> Tensor:
    """Means of frames and of their differences, 4 places each: (B, T, 3, H, W) -> (B, 24)."""
    x = torch.nn.functional.adaptive_avg_pool2d(clips.double().flatten(0, 1), 2).unflatten(0, clips.shape[:2])
    return torch.cat([x.mean(1).flatten(1), (x[:, 1:] - x[:, :-1]).square().mean(1).sqrt().flatten(1)], 1)


def network() -> fe.Extractor:
    return fe.VideoFunction(motion, 24, "motion")


def videos(n: int, length: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, length, 3, 8, 6), dtype=torch.uint8, generator=random)


def saved(root: Path, given: Tensor) -> Path:
    for v, video in enumerate(given):
        (root / f"video{v}").mkdir(parents=True)
        for f, frame in enumerate(video):
            Image.fromarray(frame.permute(1, 2, 0).numpy()).save(root / f"video{v}" / f"{f}.png")
    return root


def test_distance_of_clips_is_computed_directly() -> None:
    real, generated = videos(60, 5, 0), videos(50, 7, 1)
    sides = []
    for given in (real, generated):
        rows = motion(given[:, :4]).float().double().numpy()
        sides += [rows.mean(0), np.cov(rows.T)]
    report = fe.evaluate(real, generated, ("fvd", "kid_full", "mind"), extractor=network(), frames=4, **HOW)
    assert report["fvd"].value == pytest.approx(fe.frechet_distance(*sides), rel=1e-9)
    assert report["fvd"].label == "FVD-motion" and report["fvd"].n == 50 and report["fvd"].interval is not None
    meter = fe.Meter(real, ("fvd",), extractor=network(), frames=4)
    meter.update(generated[:20]).update(generated[20:])
    assert meter.compute()["fvd"].value == pytest.approx(report["fvd"].value, rel=1e-12)


def test_clips_of_folders_of_arrays_and_of_files_are_the_same(tmp_path: Path) -> None:
    given = videos(3, 12, 0)
    np.save(tmp_path / "videos.npy", given.permute(0, 1, 3, 4, 2).numpy())
    of_array = fe.Clips(given, frames=4, stride=2, clips=3)
    assert of_array.count == 9
    assert torch.equal(of_array.image(4), given[1, [2, 4, 6, 8]])  # of 12 frames and a span of 7: from 0, 2, 5
    for other in (saved(tmp_path / "frames", given), tmp_path / "videos.npy", list(given)):
        clips = fe.Clips(other, frames=4, stride=2, clips=3)
        assert all(torch.equal(clips.image(i), of_array.image(i)) for i in range(9))
    assert fe.Clips(given, frames=12).image(0).shape == (12, 3, 8, 6)


def test_by_name_at_the_command_line(tmp_path: Path) -> None:
    for name, seed in (("real", 0), ("generated", 1)):
        saved(tmp_path / name, videos(4, 4, seed))

    @fe.register_extractor("motion_of_test")
    def motion_of_test() -> fe.Extractor:
        return network()

    try:
        words = ["eval", str(tmp_path / "real"), str(tmp_path / "generated"), "--extractor", "motion_of_test"]
        result = CliRunner().invoke(main, [*words, "--metrics", "fvd", "--frames", "3"])
        assert result.exit_code == 0 and "FVD-motion_of_test" in result.output, result.output
    finally:
        fe.EXTRACTORS.remove("motion_of_test")


class Stand(torch.nn.Module):
    """Called as the published script is."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        assert rescale and resize and return_features
        return x.mean((1, 3, 4)).repeat(1, 100)


@pytest.mark.slow
def test_networks_by_name(tmp_path: Path) -> None:
    from transformers import VideoMAEConfig, VideoMAEImageProcessor, VideoMAEModel

    torch.jit.script(Stand()).save(str(tmp_path / "i3d.pt"))
    clips = videos(5, 4, 0)
    found = fe.extractor("i3d", weights=tmp_path / "i3d.pt")(list(clips))
    assert found.shape == (5, 400)
    assert torch.allclose(found[:, :4], clips.float().mean((2, 3, 4)), rtol=0.05)
    config = VideoMAEConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8,
        num_frames=4, tubelet_size=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = VideoMAEModel(config).eval()
    model.save_pretrained(tmp_path / "mae")
    processor = VideoMAEImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor.save_pretrained(tmp_path / "mae")
    with torch.no_grad():
        expected = model(**processor(list(clips[2]), return_tensors="pt")).last_hidden_state.mean(1)
    network = fe.extractor("videomae", weights=tmp_path / "mae")
    assert torch.allclose(network(list(clips))[2], expected[0], atol=1e-5)
    with pytest.raises(ValueError, match="clips of 4 frames; got 3"):
        network(list(clips[:, :3]))


def test_bad_input(tmp_path: Path) -> None:
    real = videos(4, 4, 0)
    with pytest.raises(
        ValueError, match="video 0 of Tensor of videos has 1 frame, and a clip of 16 at stride 1 takes 16"
    ):
        fe.evaluate(real[:, :1], real[:, :1], ("fvd",), extractor=network(), **HOW)
    with pytest.raises(ValueError, match="takes 7: give frames="):
        fe.Clips(real, frames=4, stride=2)
    with pytest.raises(ValueError, match="takes clips.*frames=16"):
        fe.evaluate(real[:, 0], real[:, 0], ("fid",), extractor=network(), **HOW)
    with pytest.raises(ValueError, match="takes images, and these are clips"):
        fe.evaluate(real, real, ("fvd",), extractor="digits", frames=4, **HOW)
    with pytest.raises(ValueError, match="no set of videos"):
        fe.Clips(real[0])
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="file of video.*ffmpeg"):
        fe.Clips(tmp_path)
    with pytest.raises(ValueError, match="i3d' needs the file of its network"):
        fe.extractor("i3d")
    with pytest.raises(ValueError, match="stride: of clips"):
        fe.evaluate(real[:, 0], real[:, 0], ("fid",), extractor="digits", stride=2, **HOW)
