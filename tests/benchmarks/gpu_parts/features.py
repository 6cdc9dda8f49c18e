"""Images a second through Inception: fp32 and --fast, with the choices of cuDNN and torch.compile, beside torch-fidelity.

First without decoding, whole batches of one size in the device's memory; then from files, which are decoded on the way; then
how much of a pass the device works.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from fewstep.eval import image_set
from fewstep.eval.extractors.base import Extractor
from fewstep.eval.passes.collect import collect

from .measuring import Missing, Place, Row, needs

sys.path.insert(0, str(Path(__file__).parents[2] / "helpers"))
SIZE = 256


def measure(place: Place) -> Iterator[Row]:
    needs("torchvision", "PIL")
    from random_inception import random_state, smooth_images

    state, count = random_state(), place.of(2, 64)
    size = place.of(32, SIZE)
    images = smooth_images(count, size, size).to(place.device)
    known = dict(ours(place, state))
    rates: dict[str, float] = {}
    want: torch.Tensor | None = None
    theirs = fidelity(place, state)
    if theirs is None:
        yield Row("torch-fidelity", None, "", "left out: it is not installed (pip install torch-fidelity)")
    for name, (run, setting) in {**({"torch-fidelity, fp32": (theirs, {})} if theirs else {}), **known}.items():
        if place.left < 20 and not place.small:
            yield Row(name, None, "", "left out: no time was left")
            continue
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, **{"allow_tf32": False, **setting}):
            try:
                features = run(images).float()
                rates[name] = count / place.seconds(lambda r=run: r(images), 5, 2)
            except Exception as error:  # a compiler that is not there is no reason to end
                yield Row(
                    name,
                    None,
                    "",
                    f"failed: {str(error).splitlines()[0][:100] if str(error) else type(error).__name__}",
                )
                continue
        want = features if want is None else want
        note = f"features {float((features - want).abs().max() / want.abs().max()):.0e} from the first row's"
        if "torch-fidelity, fp32" in rates and not name.startswith("torch"):
            note = f"{rates[name] / rates['torch-fidelity, fp32']:.2f} times torch-fidelity {version('torch-fidelity')}; {note}"
        yield Row(f"{name}, batches of {count}, {size} x {size}", rates[name], "images/s", note)
    yield from from_files(place, make(place, state), theirs)
    yield from busy(place, make(place, state))


def make(place: Place, state: dict[str, torch.Tensor], **how: Any) -> Extractor:
    from fewstep.eval import InceptionV3

    return InceptionV3(state, device=place.device, **how)


def ours(
    place: Place, state: dict[str, torch.Tensor]
) -> Iterator[tuple[str, tuple[Callable[..., Any], dict[str, Any]]]]:
    """(name, (network, settings of cuDNN))."""
    plain, fast = make(place, state), make(place, state, fast=True)
    yield "fewstep, fp32", (plain, {})
    yield "fewstep --fast", (fast, {})
    if place.cuda:
        tuned = {"benchmark": True}
        yield "fewstep, fp32, cudnn.benchmark", (plain, tuned)
        yield "fewstep --fast, cudnn.benchmark", (fast, tuned)
        rows = make(place, state)
        rows.network.to(memory_format=torch.contiguous_format)  # type: ignore[attr-defined]
        yield "fewstep, fp32, channels first in its weights", (rows, {})
    if not place.small:
        yield "fewstep --fast, compiled", (make(place, state, fast=True, compile=True), {})
        yield "fewstep, fp32, compiled", (make(place, state, compile=True), {})


def fidelity(place: Place, state: dict[str, torch.Tensor]) -> Callable[..., Any] | None:
    """torch-fidelity's network with the same weights, where it is installed."""
    if find_spec("torch_fidelity") is None:
        return None
    from torch_fidelity import feature_extractor_inceptionv3 as peer

    with mock.patch.object(peer, "load_state_dict_from_url", lambda *_, **__: state):
        network = peer.FeatureExtractorInceptionV3("peer", ["2048"]).to(place.device)
    return lambda x: network(x)[0]


def from_files(place: Place, extractor: Extractor, theirs: Callable[..., Any] | None) -> Iterator[Row]:
    """PNG files, decoded on the way: by as many workers as come by themselves, and by none."""
    from PIL import Image

    count, size = place.of(4, 4096), place.of(24, SIZE)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        coarse = random.integers(0, 256, (16, 16, 16, 3), np.uint8)
        for k, small in enumerate(coarse):  # smooth, with noise in the low bits, as photographs compress
            big = np.array(Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)).astype(int)
            noisy = (big + random.integers(-6, 7, big.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(Path(folder, f"{k:05d}.png"))
        for k in range(16, count):
            Path(folder, f"{k:05d}.png").symlink_to(Path(folder, f"{k % 16:05d}.png"))
        for k in range(count, 16):
            Path(folder, f"{k:05d}.png").unlink()
        for name, workers, number in (("own number of", None, count), ("no", 0, place.of(2, 512))):
            spent = place.seconds(
                lambda w=workers, n=number: collect(image_set(folder), extractor, workers=w, number=n), 1, 0
            )
            yield Row(
                f"a pass over PNG files of {size} x {size}, {name} workers",
                number / spent,
                "images/s",
                "from disk to moments",
            )
        if theirs is not None and not place.small and place.left > 60:
            yield peer_pass(place, Path(folder), theirs)


def peer_pass(place: Place, folder: Path, network: Callable[..., Any]) -> Row:
    """torch-fidelity's loop as it is: its Dataset, its loader with its default number of workers."""
    from torch.utils.data import DataLoader
    from torch_fidelity.datasets import ImagesPathDataset
    from torch_fidelity.defaults import DEFAULTS

    files = sorted(map(str, folder.glob("*.png")))[:1024]
    loader = DataLoader(ImagesPathDataset(files), batch_size=64, num_workers=min(8, 2 * DEFAULTS.get("num_workers", 4)))
    with torch.no_grad():
        spent = place.seconds(lambda: [network(batch.to(place.device)).cpu() for batch in loader], 1, 0)
    return Row("torch-fidelity over the same files", len(files) / spent, "images/s", f"{loader.num_workers} workers")


def busy(place: Place, extractor: Extractor) -> Iterator[Row]:
    """The share of a pass in which the device works, from a trace: arrays in the host's memory, copied on the way."""
    if not place.cuda:
        yield Row("share of a pass in which the device works", None, "", "left out: only a GPU has a trace of its own")
        return
    images = np.random.default_rng(0).integers(0, 256, (1536, SIZE, SIZE, 3), np.uint8)
    collect(image_set(images[:128]), extractor)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        collect(image_set(images), extractor)
        place.wait()
    spans = sorted(
        (e.time_range.start, e.time_range.end)
        for e in seen.events()
        if e.device_type == torch.autograd.DeviceType.CUDA and "Memcpy" not in e.name
    )
    if not spans:
        raise Missing("the profiler saw no kernels")
    first, worked, reached = spans[0][0], 0.0, spans[0][0]
    for start, end in spans:
        worked += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    yield Row(
        "share of a pass in which the device works", 100 * worked / (reached - first), "%", "kernels, copies left out"
    )
