"""Learning a table for a network of 10 million parameters: how many evaluations a second its work comes to."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator

import torch

from fewstep import learn

from .measuring import Place, Row
from .networks import denoiser, unet


def measure(place: Place) -> Iterator[Row]:
    network = unet(place, 40, channels=3)
    model = denoiser(network)
    shape, nfe, budget = (3, *2 * [place.of(8, 32)]), 5, place.of(700, 20_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place.wait()
        began = time.perf_counter()
        with place.peak() as peak:
            made = learn(
                model, nfe=nfe, shape=shape, budget=budget, batch_size=place.of(16, 64), device=str(place.device),
                cache=False, progress=False,
            )  # fmt: skip
            place.wait()
            used = peak()
    spent = time.perf_counter() - began
    table = made.tables[0]
    size = f"{network.millions:.1f} M parameters, {'x'.join(map(str, shape))}, {nfe} evaluations"
    yield Row("learning", spent, "s", ", ".join(filter(None, (f"budget {budget}", table.status, used, size))))
    x = place.random(place.of(16, 64), *shape)
    tau = torch.full((len(x),), 500.0, device=place.device)
    with torch.no_grad():
        rate = len(x) / place.seconds(lambda: network(x, tau), 10)
    yield Row(
        "learning, evaluations a second", budget / spent, "1/s", f"the network alone makes {rate:.0f} without gradients"
    )
