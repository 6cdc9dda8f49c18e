"""On a GPU what a CPU says, from decoding to metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imagesets import blobs, written

import fewstep.eval as fe
from fewstep.eval.gaussian.moments import Moments
from fewstep.eval.passes.collect import collect
from fewstep.eval.passes.resuming import shards

pytestmark = pytest.mark.gpu
METRICS, OPTIONS = ("fid", "kid", "kid_full", "prdc"), {"kid": {"subset_size": 60, "subsets": 10}}


def sets(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    return blobs(n, 0), blobs(n, 1)


def same(one: Any, other: Any) -> None:
    assert set(one) == set(other)
    for name in one:
        assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-3, abs=1e-4), name


def test_metrics_are_those_of_a_cpu() -> None:
    real, generated = sets()
    how: dict[str, Any] = {"extractor": "digits", "options": OPTIONS, "progress": False}
    here, there = (fe.evaluate(real, generated, METRICS, device=device, **how) for device in ("cpu", "cuda"))
    same(here, there)
    floats = torch.from_numpy(generated).cuda().float()[:, None] / 255
    same(here, fe.evaluate(real, floats, METRICS, device="cuda", range=(0, 1), **how))


def test_files_by_workers_are_the_images(tmp_path: Path) -> None:
    pixels = np.repeat(sets(64)[0][..., None], 3, -1)
    folder = fe.image_set(written(tmp_path, [f"{k:03d}.png" for k in range(64)], pixels))
    found = [
        collect(images, fe.extractor("digits", device="cuda"), rows=("main",), batch_size=16, workers=workers).rows[
            "main"
        ]
        for images, workers in ((folder, 2), (folder, 0), (fe.image_set(pixels), None))
    ]
    assert all(np.abs(rows - found[0]).max() < 1e-5 for rows in found)


def test_an_interrupted_evaluation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = sets(900)
    how: dict[str, Any] = {"extractor": "digits", "device": "cuda", "progress": False, "batch_size": 50}
    whole = fe.fid(real, generated, **how)
    monkeypatch.setattr("fewstep.eval.passes.collect.SAVE_EVERY", 0.0)
    call, calls = fe.Extractor.forward, []

    def once(self: Any, *given: Any) -> Any:
        calls.append(None)
        if len(calls) == 27:
            raise KeyboardInterrupt
        return call(self, *given)

    monkeypatch.setattr(fe.Extractor, "forward", once)
    with pytest.raises(KeyboardInterrupt):
        fe.fid(real, generated, resume=tmp_path, **how)
    assert shards.found(next(path for path in tmp_path.iterdir() if path.is_dir()))
    assert float(fe.fid(real, generated, resume=tmp_path, **how)) == pytest.approx(float(whole), rel=1e-9)


def test_moments_of_the_cpu_and_of_the_gpu_add_up() -> None:
    x = torch.randn(1500, 40, generator=torch.Generator().manual_seed(0)).double()
    here, there = Moments(40), Moments(40)
    here.add(x[:700])
    there.add(x[700:].cuda())
    here.merge(there)
    mean, scatter = here.done()
    assert mean.device.type == "cuda" and torch.allclose(scatter.cpu() / 1499, torch.cov(x.T), atol=1e-12)


def test_what_a_pipeline_draws_stays_there() -> None:
    """And is within two levels what a CPU draws: no picture of PIL is made."""
    found = []
    for device in ("cpu", "cuda"):
        images = fe.Generated("demo", "dpmpp_2m_sde", 3, number=40, device=device)
        whole = images.whole([range(40)], torch.device(device))
        parts = [image for _, some in images.stream(40) for image in some] if whole is None else []
        batches = [] if whole is None else [batch.made() for batch in whole]
        assert all(batch.parts[0].is_cuda for batch in batches)
        found.append(torch.stack(parts) if whole is None else torch.cat([batch.parts[0] for batch in batches]).cpu())
        assert images.seconds > 0
    assert (found[0].int() - found[1].int()).abs().max() <= 2


def test_a_meter_takes_images_of_the_device() -> None:
    real, generated = sets()
    images = torch.from_numpy(generated).cuda().float()[:, None] / 127.5 - 1
    meter = fe.Meter(real, METRICS, extractor="digits", options=OPTIONS, range=(-1, 1), device="cuda", batch_size=64)
    for part in images.split(37):
        meter.update(part)
    same(meter.compute(), fe.evaluate(real, generated, METRICS, extractor="digits", options=OPTIONS, progress=False))
