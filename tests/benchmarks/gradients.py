"""Memory and time of gradients through sampling: `python tests/benchmarks/gradients.py`.

A convolutional network (3 -> 64 -> 64 -> 3 channels) on images of 96 x 96, float32, one thread. Memory is the peak of a fresh
process over what it had after one call and its gradient, which is what the network itself needs; the latents of a run are
110 KiB each. On a GPU (--device cuda) it is max_memory_allocated, of a network of --channels.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import click
import kept
import torch

from fewstep import Denoiser, NoiseSchedule, adjoint

SOLVERS = {
    "direct": "dpmpp_2m",
    "checkpoint": "dpmpp_2m",
    "segments": "dpmpp_2m",
    "revolve": "dpmpp_2m",
    "reversible": "alf",
}
NFES = (10, 20, 40, 100)


def network(channels: int) -> torch.nn.Module:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d
    middle = [layer for _ in range(2) for layer in (conv(channels, channels, 3, padding=1), torch.nn.SiLU())]
    return torch.nn.Sequential(
        conv(3, channels, 3, padding=1), torch.nn.SiLU(), *middle, conv(channels, 3, 3, padding=1)
    )


def run(denoiser: Denoiser, x: torch.Tensor, method: str, nfe: int) -> None:
    adjoint.sample(denoiser, x, SOLVERS[method], nfe, method=method).square().mean().backward()


def peak(device: str) -> float:
    """MiB at most so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(method: str, nfe: int, device: str, channels: int) -> dict[str, Any]:
    """Of this process: MiB above those of one evaluation, and seconds."""
    net = network(channels).to(device)
    denoiser = Denoiser(lambda x, tau: net(x), NoiseSchedule.vp_linear())
    x = torch.randn(1, 3, 96, 96, device=device, requires_grad=True)
    for _ in range(2):
        run(denoiser, x, "direct", 1)
    before = peak(device)
    began = time.process_time()
    run(denoiser, x, method, nfe)
    return {"mib": peak(device) - before, "base": before, "seconds": time.process_time() - began}


@click.command()
@click.option("--one", nargs=2, default=None, hidden=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--channels", default=64, show_default=True)
@click.option("--repeats", default=5, show_default=True, help="Of the timing at 20 evaluations.")
@click.option("--nfe", "nfes", multiple=True, default=NFES, show_default=True, help="Of the peaks.")
@kept.keep
def main(
    one: tuple[str, str] | None, device: str, channels: int, repeats: int, nfes: tuple[int, ...], keep: bool
) -> None:
    torch.set_num_threads(1)
    if one:
        click.echo(json.dumps(measure(one[0], int(one[1]), device, channels)))
        return
    click.echo(
        "peak memory in MiB above that of one evaluation and its gradient; seconds at 20 evaluations, times direct\n"
    )
    rows = []
    for method in SOLVERS:
        cells = []
        for nfe in nfes:
            own = ["--device", device, "--channels", str(channels)]
            out = subprocess.run(
                [sys.executable, __file__, "--one", method, str(nfe), *own], capture_output=True, text=True, check=True
            )
            cells.append(f"{json.loads(out.stdout)['mib']:.0f}")
        rows.append([f"{method} (`{SOLVERS[method]}`)", *cells])
    net = network(channels).to(device)
    denoiser = Denoiser(lambda x, tau: net(x), NoiseSchedule.vp_linear())
    x = torch.randn(1, 3, 96, 96, device=device, requires_grad=True)
    taken: dict[str, list[float]] = {method: [] for method in SOLVERS}
    for _ in range(repeats + 1):
        for method in SOLVERS:
            began = time.process_time()
            run(denoiser, x, method, 20)
            taken[method].append(time.process_time() - began)
    seconds = {method: statistics.median(values[1:]) for method, values in taken.items()}
    for row, method in zip(rows, SOLVERS, strict=True):
        row.append(f"{seconds[method] / seconds['direct']:.2f}")
    kept.show("gradients", ("method", *(f"nfe {n}" for n in nfes), "time"), rows, keep)
    click.echo(", ".join(f"{method} {value:.3f} s" for method, value in seconds.items()))


if __name__ == "__main__":
    main()
