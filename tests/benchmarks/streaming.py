"""Memory of one pass over more and more images, and what its statistics cost: `python tests/benchmarks/streaming.py`.

Prints tables, asserts nothing. Every number of images is one process of its own, whose peak of resident memory is told beside
what it held before the pass. Images are drawn by their index and features are a random layer of 2048, so that 100,000 take
no long; the moments do not know the difference. Then the milliseconds of the statistics an image beside those of Inception.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from random_inception import random_state, smooth_images  # noqa: E402

from fewstep.eval import Extractor, FeatureStatistics, Function, InceptionV3, extractor, image_set  # noqa: E402
from fewstep.eval.passes.collect import collect  # noqa: E402

DIM = 2048


class Drawn(torch.utils.data.Dataset):
    """Noise of 32 x 32 pixels, by index."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.random.default_rng(index).integers(0, 256, (3, 32, 32), np.uint8))


def random_layer() -> Extractor:
    """relu(W x) of every fourth pixel: 2048 features at little cost."""
    W = torch.randn(3 * 16 * 16, DIM, generator=torch.Generator().manual_seed(0)) / 28
    return Function(lambda x: (x[..., ::2, ::2].flatten(1) / 128.0 - 1).matmul(W).relu(), DIM, "random")


def mebibytes() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one_pass(count: int, network: str, rows: bool) -> None:
    """In a process of its own: collect, and print what it took as JSON."""
    torch.set_num_threads(1)
    made, images = random_layer() if network == "random" else extractor(network), image_set(Drawn(count))
    collect(image_set(Drawn(2)), made)  # libraries are loaded
    before, begun = mebibytes(), time.process_time()
    found = collect(images, made, rows=("main",) if rows else ())
    spent = time.process_time() - begun
    found.statistics["main"].gaussian()
    print(json.dumps({"before": before, "peak": mebibytes(), "seconds": spent}))


def memory(counts: tuple[int, ...], network: str, rows: bool) -> None:
    click.echo(f"{network} extractor{', all features kept on disk' if rows else ''}")
    click.echo("| images | peak MiB | of it the pass | ms/image |\n|--:|--:|--:|--:|")
    for count in counts:
        call = [sys.executable, __file__, "--one", str(count), "--extractor", network]
        told = subprocess.run([*call, *(["--rows"] if rows else [])], capture_output=True, text=True, check=True)
        took = json.loads(told.stdout)
        each = f"{took['seconds'] / count * 1e3:.2f}"
        click.echo(f"| {count} | {took['peak']:.0f} | {took['peak'] - took['before']:.0f} | {each} |")
    click.echo("")


def seconds(run: Callable[[], Any], device: str) -> float:
    cuda = device.startswith("cuda")
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize()
    begun = clock()
    run()
    if cuda:
        torch.cuda.synchronize()
    return clock() - begun


def share(device: str, batch_size: int) -> None:
    """Statistics of 32768 features, the last moments included, against Inception on one batch."""
    network = InceptionV3(random_state(), device=device)
    images = smooth_images(batch_size, 32, 32)
    of_network = min(seconds(lambda: network(images), device) for _ in range(3)) / batch_size
    batches = torch.randn(8, batch_size, DIM, device=device).relu()
    n = 32768 // batch_size

    def streamed() -> None:
        statistics = FeatureStatistics(DIM)
        for k in range(n):
            statistics.update(batches[k % 8])
        statistics.gaussian()

    of_statistics = min(seconds(streamed, device) for _ in range(2)) / (n * batch_size)
    where = f"{device}, batches of {batch_size}"
    click.echo(f"Inception {1e3 * of_network:.3f} ms/image, statistics {1e3 * of_statistics:.4f} ms/image ({where}):")
    click.echo(f"{of_statistics / (of_network + of_statistics):.2%} of the time")


@click.command()
@click.option("--images", "counts", multiple=True, default=(1000, 10_000, 30_000, 100_000), show_default=True)
@click.option("--extractor", "network", default="random", show_default=True, help="random or digits.")
@click.option("--rows", is_flag=True, help="Keep all features too, on disk.")
@click.option("--device", default="cpu", show_default=True, help="For the share of the statistics.")
@click.option("--batch-size", default=64, show_default=True)
@click.option("--memory/--no-memory", "measures_memory", default=True, show_default=True)
@click.option("--one", type=int, hidden=True)
def main(
    counts: tuple[int, ...],
    network: str,
    rows: bool,
    device: str,
    batch_size: int,
    measures_memory: bool,
    one: int | None,
) -> None:
    if one is not None:
        return one_pass(one, network, rows)
    torch.set_num_threads(1)
    if measures_memory:
        memory(counts, network, rows)
    share(device, batch_size)


if __name__ == "__main__":
    main()
