"""ODE, SDE and Restart at equal evaluations on the embedded digits: Frechet distances on pixels and on classifier features.

    python tests/benchmarks/restart.py                      # against 2000 digits of a long run of the model itself
    python tests/benchmarks/restart.py --data mnist.npz     # against real digits: array test_images (N, 28, 28) uint8

Distances of few images are biased upwards, by the same amount in every row of one table.
"""

from __future__ import annotations

import click
import kept
import numpy as np
import torch
from tqdm import tqdm

from fewstep.demo import load_demo_classifier
from fewstep.eval.gaussian.covariance import Gaussian
from fewstep.eval.gaussian.frechet import frechet
from fewstep.eval.gaussian.statistics import FeatureStatistics
from fewstep.samplers.pipeline.source import Source

RUNS = {
    "dpmpp_2m": ("ODE", {}),
    "heun": ("ODE", {}),
    "dpmpp_2m_sde": ("SDE", {}),
    "er_sde": ("SDE", {}),
    "sa_solver": ("SDE", {}),
    "euler_ancestral": ("SDE", {}),
    "edm_stochastic": ("SDE", {}),
    "restart, Heun": ("Restart", {}),
    "restart, DPM++ 2M": ("Restart", {"base": "dpmpp_2m"}),
}


def gaussian(features: torch.Tensor) -> Gaussian:
    """Mean and covariance of features (N, d)."""
    return FeatureStatistics(features.shape[1]).update(features).gaussian()


def draw(source: Source, seeds: range, **how: object) -> torch.Tensor:
    """Digits of these seeds, (N, 1, 28, 28)."""
    return torch.cat([batch.draw(**how) for batch in source.batches(seeds)])


def real(path: str) -> torch.Tensor:
    """Test digits in [-1, 1]."""
    images = np.load(path)["test_images"]
    return torch.from_numpy(images).float()[:, None] / 127.5 - 1


@click.command()
@click.option("--data", help="npz with test_images (N, 28, 28) uint8  [default: a long run of the model]")
@click.option("-n", "--number", default=512, show_default=True)
@click.option("--nfe", "nfes", default="18,36,72", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--truth", "many", default=2000, show_default=True, help="Digits of the long run.")
@kept.keep
def main(data: str | None, number: int, nfes: str, device: str, many: int, keep: bool) -> None:
    """Print the table."""
    source, classifier = Source("demo", device=device, batch_size=128), load_demo_classifier()

    def features(x: torch.Tensor) -> tuple[Gaussian, Gaussian]:
        clipped = x.clamp(-1, 1)
        with torch.no_grad():
            seen = classifier.features(clipped)
        pixels = torch.nn.functional.avg_pool2d(clipped, 2).flatten(1)  # 14 x 14: as many as few images can tell apart
        return gaussian(pixels), gaussian(seen)

    truth = real(data) if data else draw(source, range(10**6, 10**6 + many), solver="dpmpp_3m", nfe=40, grid="karras")
    target = features(truth)
    columns = [int(n) for n in nfes.split(",")]
    found = []
    for label, (_, options) in tqdm(RUNS.items()):
        cells = []
        for n in columns:
            x = draw(source, range(number), solver=label.split(",")[0], nfe=n, grid="karras", **options)
            cells += [frechet(got, want).value for got, want in zip(features(x), target, strict=True)]
        found.append(cells)
    print(f"squared Frechet distance of {number} digits to {len(truth)} {'real' if data else 'long-run'} digits")
    head = [f"{what}, {n}" for n in columns for what in ("pixels", "features")]
    lines = kept.least_bold([[f"{value:.3f}" for value in row] for row in found], found)
    rows = [(label, kind, *line) for (label, (kind, _)), line in zip(RUNS.items(), lines, strict=True)]
    kept.show("restart", ("solver", "kind", *head), rows, keep)


if __name__ == "__main__":
    main()
