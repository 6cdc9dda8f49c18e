"""Seconds of one Frechet distance, ours and the peers', in one run: `python tests/benchmarks/frechet.py`.

Prints tables, asserts nothing; the last one is that of the pages.
On a CPU the time is that of the process on one thread (other jobs do not count), on a GPU that
of the clock between two synchronizations; peers other than torchmetrics compute on the CPU there too. Features are those of
a network in kind: rectified, not centred, with a spectrum that decays. The error is the distance to the singular values of
L_1^T L_2 (for few samples: of the centred features themselves), which are exact to about 1e-13.
"""

from __future__ import annotations

import os

for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")  # numpy, scipy and torch each have their own threads

import importlib.util  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from importlib.metadata import version  # noqa: E402
from types import SimpleNamespace  # noqa: E402
from unittest import mock  # noqa: E402

import click  # noqa: E402
import kept  # noqa: E402
import numpy as np  # noqa: E402
import scipy.linalg  # noqa: E402
import torch  # noqa: E402

from fewstep.eval.gaussian.covariance import Gaussian, centred  # noqa: E402
from fewstep.eval.gaussian.frechet import frechet, frechet_distance  # noqa: E402

Rows = tuple[np.ndarray, np.ndarray]
Run = Callable[[], float]
MANY, FEW = 10_000, 1000  # samples of the pages' columns
SHOWN = {"torch-fidelity": "torch-fidelity", "torchmetrics": "torchmetrics", "pytorch-fid": "pytorch-fid",
         "fewstep": "fewstep", "fewstep, reference factored": "fewstep, reference factored before"}  # fmt: skip


def features(n: int, dim: int, seed: int, decay: float = 0.6) -> np.ndarray:
    """float32 (n, dim), relu(W z + b) with standard deviations like k^-decay; seeds are distributions near each other."""
    common, own = (torch.Generator().manual_seed(s) for s in (0, seed + 1))
    W = torch.randn(dim, dim, generator=common) / dim**0.5 + 0.1 * torch.randn(dim, dim, generator=own) / dim**0.5
    z = torch.randn(n, dim, generator=own) * torch.arange(1, dim + 1).float() ** -decay
    return (6 * z @ W + 0.3 + 0.1 * torch.randn(dim, generator=own)).relu().numpy()


def peers(x: Rows, moments: list[np.ndarray], device: str) -> Iterator[tuple[str, Run]]:
    from pytorch_fid import fid_score
    from torch_fidelity import metric_fid

    mu1, cov1, mu2, cov2 = moments
    sides = [{"mu": mu1, "sigma": cov1}, {"mu": mu2, "sigma": cov2}]
    key = metric_fid.KEY_METRIC_FID
    yield "torch-fidelity", lambda: metric_fid.fid_statistics_to_metric(*sides, False)[key]

    def from_features() -> float:
        of = [metric_fid.fid_features_to_statistics(torch.from_numpy(rows)) for rows in x]
        return metric_fid.fid_statistics_to_metric(*of, False)[key]

    yield "torch-fidelity, from features", from_features
    if importlib.util.find_spec("torchmetrics"):
        from torchmetrics.image.fid import _compute_fid

        tensors = [torch.from_numpy(m).to(device) for m in moments]
        yield "torchmetrics", lambda: _compute_fid(*tensors).item()
    else:
        click.echo("torchmetrics is left out: it is not installed (pip install torchmetrics).")

    # It asks for sqrtm(A, disp=False), which newer versions of scipy no longer take.
    linalg = SimpleNamespace(sqrtm=lambda A, disp=True: scipy.linalg.sqrtm(A) if disp else (scipy.linalg.sqrtm(A), 0.0))

    def root() -> float:
        with mock.patch.object(fid_score, "linalg", linalg), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(fid_score.calculate_frechet_distance(mu1, cov1, mu2, cov2))

    yield "pytorch-fid", root


def ours(x: Rows, moments: list[np.ndarray], device: str) -> Iterator[tuple[str, Run]]:
    on_device = [torch.from_numpy(m).to(device) for m in moments]
    mu2, cov2 = on_device[2:]
    rows = [torch.from_numpy(part).to(device) for part in x]
    reference = Gaussian.of(*on_device[:2])
    assert reference.factor is not None  # made here, as when it comes from a file

    yield "fewstep", lambda: frechet_distance(*on_device)
    yield "fewstep, reference factored", lambda: frechet(reference, Gaussian.of(mu2, cov2)).value
    if len(rows[0]) <= rows[0].shape[1]:
        yield "fewstep, from features", lambda: frechet(*map(Gaussian.of_rows, rows)).value
        yield (
            "fewstep, reference factored, from features",
            lambda: frechet(reference, Gaussian.of_rows(rows[1])).value,
        )


def exact(x: Rows, moments: list[np.ndarray]) -> float:
    """By the singular values of the centred features, or of the Cholesky factors where there are more samples."""
    mu1, cov1, mu2, cov2 = map(torch.from_numpy, moments)
    if len(x[0]) <= len(mu1):
        a, b = (centred(torch.from_numpy(rows).double()).T / (len(rows) - 1) ** 0.5 for rows in x)
    else:
        a, b = torch.linalg.cholesky(cov1), torch.linalg.cholesky(cov2)
    root = torch.linalg.svdvals(a.T @ b).sum()
    return ((mu1 - mu2).square().sum() + cov1.trace() + cov2.trace() - 2 * root).item()


def seconds(run: Run, device: str, repeats: int) -> tuple[float, float]:
    """The value, and the shortest time of several runs."""
    cuda, taken = device.startswith("cuda"), []
    clock = time.perf_counter if cuda else time.process_time
    for _ in range(repeats):
        begun = clock()
        value = run()  # a Python float: the device has finished
        taken.append(clock() - begun)
    return value, min(taken)


def shown(found: dict[tuple[int, str], tuple[float, float]]) -> list[list[str]]:
    """The rows of the pages: seconds (error), bold where it takes less than half of what the fastest peer does."""
    places = [(MANY, ""), (FEW, ""), (FEW, ", from features")]
    peers = [name for name in SHOWN if not name.startswith("fewstep")]
    rows = []
    for name, label in SHOWN.items():
        if (MANY, name) not in found:
            continue  # a peer that is not installed
        row = [_named(label)]
        for n, how in places:
            if (n, name + how) not in found:
                row.append("")
                continue
            taken, error = found[n, name + how]
            fast = taken < min(found[n, peer + how][0] for peer in peers if (n, peer + how) in found) / 2
            row.append(f"{f'**{taken:.2f}**' if fast else f'{taken:.2f}'} ({kept.power(error, 0)})")
        rows.append(row)
    return rows


def _named(label: str) -> str:
    """With the release of a peer."""
    return label if label.startswith("fewstep") else f"{label} {version(label)}"


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--dim", default=2048, show_default=True)
@click.option("--samples", "counts", multiple=True, default=(10_000, 1000), show_default=True)
@click.option("--decay", default=0.6, show_default=True, help="Of the standard deviations: k^-decay.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--threads", default=1, show_default=True)
@kept.keep
def main(device: str, dim: int, counts: tuple[int, ...], decay: float, repeats: int, threads: int, keep: bool) -> None:
    torch.set_num_threads(threads)
    cuda = device.startswith("cuda")
    what = torch.cuda.get_device_name(device) if cuda else f"CPU, process time, {threads} thread(s)"
    click.echo(f"{what}; torch {torch.__version__}, numpy {np.__version__}, scipy {scipy.__version__}; d = {dim}\n")
    found: dict[tuple[int, str], tuple[float, float]] = {}
    for n in counts:
        x = features(n, dim, 1, decay), features(n, dim, 2, decay)
        moments = [m for part in x for m in (part.mean(0, dtype=float), np.cov(part, rowvar=False))]
        truth, first = exact(x, moments), None
        spectrum = np.linalg.eigvalsh(moments[1])
        click.echo(f"N = {n}: FD {truth:.9g}; variances {spectrum[-1]:.2g} to {spectrum[0]:.2g}")
        click.echo("| method | seconds | times faster than torch-fidelity | error |\n|---|--:|--:|--:|")
        for source in (peers, ours):
            for name, run in source(x, moments, device):
                if cuda:
                    run()  # libraries are loaded
                value, taken = seconds(run, device, repeats)
                first = first or taken
                found[n, name] = taken, abs(value - truth)
                click.echo(f"| {name} | {taken:.3f} | {first / taken:.2f} | {abs(value - truth):.1e} |")
        click.echo("")
    columns = ("", f"{MANY:,}", f"{FEW}, from mean and covariance", f"{FEW}, from features")
    kept.show("frechet", columns, shown(found), keep)


if __name__ == "__main__":
    main()
