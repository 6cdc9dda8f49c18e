"""Picard windows at batch 1: many times at once where a GPU has room beside one image."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fewstep import sample

from .measuring import Place, Row
from .networks import denoiser, unet


@torch.no_grad()
def measure(place: Place) -> Iterator[Row]:
    network = unet(place, 64)
    model, steps = denoiser(network), place.of(6, 100)
    x = place.random(1, 4, *2 * [place.of(16, 64)])
    alone = place.seconds(lambda: sample(model, x, "ddim", steps), 3)
    want = sample(model, x, "ddim", steps)
    yield Row(f"ddim, {steps} steps, batch 1", alone, "s", f"UNet of {network.millions:.1f} M parameters")
    for window in place.of((1, 6), (1, 8, 32, 100)):
        if place.left < 5:
            yield Row(f"picard, window {window}", None, "", "left out: no time was left")
            continue
        got, info = sample(model, x, "picard", steps, window=window, tolerance=1e-3, return_info=True)
        spent = place.seconds(lambda w=window: sample(model, x, "picard", steps, window=w, tolerance=1e-3), 3)
        error = float((got - want).abs().max())
        note = f"{alone / spent:.2f} times as fast, {info.calls} calls in turn, largest error {error:.0e}"
        yield Row(f"picard, window {window}", spent, "s", note)
