"""Gradients through a run of a UNet of 30 million parameters: seconds and memory of every method, and offload."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch

from fewstep import adjoint

from .measuring import Place, Row
from .networks import denoiser, unet

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "direct": ("dpmpp_2m", {"method": "direct"}),
    "checkpoint": ("dpmpp_2m", {"method": "checkpoint"}),
    "checkpoint, offload": ("dpmpp_2m", {"method": "checkpoint", "offload": True}),
    "segments": ("dpmpp_2m", {"method": "segments"}),
    "revolve": ("dpmpp_2m", {"method": "revolve"}),
    "reversible, bdia": ("bdia", {"method": "reversible"}),
    "adjoint_deis": ("dpmpp_2m", {"method": "adjoint_deis"}),
}


def measure(place: Place) -> Iterator[Row]:
    network = unet(place, 64)
    model, nfe = denoiser(network), place.of(4, 20)
    shape = place.of((1, 4, 16, 16), (4, 4, 64, 64))
    start = place.random(*shape)
    size = f"{network.millions:.1f} M parameters, {nfe} evaluations, {'x'.join(map(str, shape))}"
    plain: torch.Tensor | None = None
    for name, (solver, how) in METHODS.items():
        if place.left < 5:
            yield Row(name, None, "", "left out: no time was left")
            continue
        gradient = torch.zeros_like(start)

        def run(solver: str = solver, how: dict[str, Any] = how, gradient: torch.Tensor = gradient) -> None:
            x_T = start.clone().requires_grad_()
            adjoint.sample(model, x_T, solver, nfe, params=(), **how).square().mean().backward()
            assert x_T.grad is not None
            gradient.copy_(x_T.grad)

        try:
            warnings.simplefilter("ignore")  # few evaluations where sizes are small
            run()
            with place.peak() as peak:
                spent = place.seconds(run, 2, 0)
                used = peak()
        except torch.cuda.OutOfMemoryError:
            yield Row(f"gradient, {name}", None, "s", f"out of memory; {size}")
            continue
        plain = gradient.clone() if name == "direct" else plain
        apart = ""
        if plain is not None and solver == "dpmpp_2m" and name != "direct":
            apart = f"{float((gradient - plain).norm() / plain.norm()):.1e} from direct"
        yield Row(f"gradient, {name}", spent, "s", ", ".join(filter(None, (used, apart, size))))
