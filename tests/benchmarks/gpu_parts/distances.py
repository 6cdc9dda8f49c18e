"""Distances of two sets of features: d = 2048, 50,000 of each. The moments of a pass, Frechet, KID, precision and recall."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from fewstep.eval import METRICS, FeatureStatistics
from fewstep.eval.gaussian.covariance import Gaussian
from fewstep.eval.gaussian.features import Features
from fewstep.eval.gaussian.frechet import frechet

from .measuring import Missing, Place, Row, needs

try:
    import scipy  # noqa: F401
except ImportError:
    scipy = None


def rows_of(place: Place, n: int, dim: int, seed: int) -> torch.Tensor:
    """Rectified, not centred, with a spectrum that decays, as those of a network."""
    generator = torch.Generator(place.device).manual_seed(seed)
    W = torch.randn(dim, dim, generator=torch.Generator().manual_seed(0)).to(place.device) / dim**0.5
    scales = torch.arange(1, dim + 1, device=place.device).float() ** -0.6
    parts = [torch.randn(len(k), dim, generator=generator, device=place.device) for k in torch.arange(n).split(8192)]
    return torch.cat([(6 * (z * scales) @ W + 0.3 + 0.01 * seed).relu() for z in parts])


def measure(place: Place) -> Iterator[Row]:
    n, dim = place.of(400, 50_000), place.of(32, 2048)
    sides = [rows_of(place, n, dim, seed) for seed in (0, 1)]
    batches = sides[1].split(64)

    def streamed() -> FeatureStatistics:
        made = FeatureStatistics(dim)
        for k, chunk in enumerate(sides[1].split(4096)):
            made.update(chunk, torch.arange(4096 * k, 4096 * k + len(chunk)).numpy())
        return made

    spent = place.seconds(lambda: streamed().gaussian(), 2)
    yield Row(f"moments of {n} features of {dim}", 1e6 * spent / n, "us an image", f"{len(batches)} batches of 64")
    gaussians = [Gaussian.of(x.double().mean(0), torch.cov(x.double().T)) for x in sides]

    def anew(k: int) -> Gaussian:
        return Gaussian(gaussians[k].mean, gaussians[k].given_cov)

    yield Row(
        f"Frechet, d = {dim}", place.seconds(lambda: frechet(anew(0), anew(1)).value), "s", "nothing factored before"
    )
    reference = anew(0)
    yield Row(
        f"Frechet, d = {dim}, again", place.seconds(lambda: frechet(reference, anew(1)).value), "s", "same reference"
    )
    few = sides[1][: place.of(20, 1000)]
    note = "singular covariance: eigenvalues of the thinner side"
    yield Row(
        f"Frechet, {len(few)} images", place.seconds(lambda: frechet(anew(0), Gaussian.of_rows(few)).value), "s", note
    )
    yield from metrics(place, sides)


def metrics(place: Place, sides: list[torch.Tensor]) -> Iterator[Row]:
    if scipy is None:
        raise Missing("KID, precision and recall come with the extra eval (pip install 'fewstep[eval]')")
    needs("scipy")
    n = len(sides[0])
    real, generated = (Features(n, {}, {"main": x.cpu().numpy()}) for x in sides)
    options: dict[str, dict[str, Any]] = {
        "kid": {"subset_size": place.of(50, 1000), "subsets": place.of(3, 100)},
        "kid_full": {},
        "prdc": {},
    }
    for name, given in options.items():
        compute: Callable[..., Any] = METRICS.find(name).compute
        found: list[Any] = []

        def run(compute: Any = compute, given: Any = given, found: list[Any] = found) -> None:
            found.extend(compute(real, generated, device=place.device, **given))

        with place.peak() as peak:
            once = place.seconds(run, 1, 0)
            told = ", ".join(f"{r.metric} {r.value:.4f}" for r in found[:4])
            yield Row(f"{name}, {n} images of each set", once, "s", f"{told} {peak()}".strip())
