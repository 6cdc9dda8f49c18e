"""Images a second through Inception, ours and the peers', same weights, in one run: `python tests/benchmarks/extractor.py`.

Prints tables, asserts nothing; the last one is that of the pages.
On a CPU the time is that of the process (other jobs do not count), on a GPU that of the
clock between two synchronizations. The difference is the largest of the features, relative to the largest feature of
torch-fidelity. Weights are random: nothing about the speed depends on them.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import click
import kept
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from random_inception import random_state, smooth_images  # noqa: E402

from fewstep.eval.extractors.inception import InceptionV3  # noqa: E402

Run = Callable[[torch.Tensor], torch.Tensor]
SHOWN = {  # row of the pages: (network, whether its features are to be those of torch-fidelity)
    "torch-fidelity": ("torch-fidelity", True),
    "pytorch-fid": ("pytorch-fid", False),
    "fewstep, `tf`": ("fewstep", True),
    "fewstep, `clean`": ("fewstep, clean", False),
    "fewstep `--fast` (bf16)": ("fewstep --fast", True),
}


def peers(state: dict[str, torch.Tensor], device: str) -> Iterator[tuple[str, Run]]:
    from pytorch_fid import inception as pytorch_fid
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    def given(*_: object, **__: object) -> dict[str, torch.Tensor]:
        return state

    with mock.patch.object(fidelity, "load_state_dict_from_url", given):
        network = fidelity.FeatureExtractorInceptionV3("peer", ["2048"]).to(device)
        yield "torch-fidelity", lambda x: network(x.to(device))[0]
        if importlib.util.find_spec("torchmetrics"):
            from torchmetrics.image.fid import NoTrainInceptionV3

            metrics = NoTrainInceptionV3("peer", ["2048"], antialias=False).to(device)
            yield "torchmetrics", lambda x: metrics(x.to(device))
        else:
            click.echo("torchmetrics is left out: it is not installed (pip install torchmetrics).")
    with mock.patch.object(pytorch_fid, "load_state_dict_from_url", given):
        plain = pytorch_fid.InceptionV3([3]).eval().to(device)
    yield "pytorch-fid", lambda x: plain(x.to(device).float() / 255)[0].flatten(1)


def ours(state: dict[str, torch.Tensor], device: str, compiled: bool) -> Iterator[tuple[str, Run]]:
    yield "fewstep", InceptionV3(state, device=device)
    yield "fewstep, pytorch-fid", InceptionV3(state, protocol="pytorch-fid", device=device)
    yield "fewstep, clean", InceptionV3(state, protocol="clean", device=device)
    if compiled:
        yield "fewstep, compiled", InceptionV3(state, compile=True, device=device)
    yield "fewstep --fast", InceptionV3(state, fast=True, device=device)
    if compiled:
        yield "fewstep --fast, compiled", InceptionV3(state, fast=True, compile=True, device=device)


def seconds(run: Run, images: torch.Tensor, device: str, repeats: int) -> float:
    """The shortest of several passes, after one that does not count."""
    cuda, clock = device.startswith("cuda"), time.perf_counter if device.startswith("cuda") else time.process_time
    taken = []
    for _ in range(repeats + 1):
        if cuda:
            torch.cuda.synchronize()
        begun = clock()
        run(images)
        if cuda:
            torch.cuda.synchronize()
        taken.append(clock() - begun)
    return min(taken[1:])


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--batch-size", default=64, show_default=True, help="torch-fidelity's default is 64 as well.")
@click.option("--size", default=32, show_default=True, help="Pixels of the images' sides.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--threads", default=1, show_default=True, help="Threads on a CPU.")
@click.option("--compiled/--no-compiled", default=True, show_default=True, help="With torch.compile as well.")
@kept.keep
@torch.no_grad()
def main(device: str, batch_size: int, size: int, repeats: int, threads: int, compiled: bool, keep: bool) -> None:
    torch.set_num_threads(threads)
    state, images = random_state(), smooth_images(batch_size, size, size)
    what = torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU, {threads} thread(s)"
    click.echo(f"{what}; torch {torch.__version__}; batches of {batch_size}, {size} x {size}\n")
    click.echo("| network | images/s | times torch-fidelity | difference |\n|---|--:|--:|--:|")
    reference: tuple[torch.Tensor, float] | None = None
    found: dict[str, tuple[float, float, float]] = {}
    for source in (peers(state, device), ours(state, device, compiled)):
        for name, run in source:
            features, rate = run(images).float(), batch_size / seconds(run, images, device, repeats)
            reference = reference or (features, rate)
            apart = ((features - reference[0]).abs().max() / reference[0].abs().max()).item()
            found[name] = rate, rate / reference[1], apart
            click.echo(f"| {name} | {rate:.2f} | {rate / reference[1]:.2f} | {apart:.1e} |")
    rows = []
    for label, (name, same) in SHOWN.items():
        rate, ratio, apart = found[name]
        difference = (kept.power(apart, 0) if apart else "0") if same else ""
        rows.append((label, f"{rate:.1f}", "1" if ratio == 1 else f"{ratio:.2f}", difference))
    click.echo("")
    kept.show("inception", ("", "images/s", "ratio", "difference"), rows, keep)


if __name__ == "__main__":
    main()
