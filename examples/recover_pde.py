"""Darcy flow recovered from 3 % of its cells: coefficient a and solution u, with a small diffusion model for their prior.

    python examples/recover_pde.py                                  # makes the data, trains ten minutes, recovers
    python examples/recover_pde.py --weights darcy.safetensors      # a prior that is there already

Known are 3 % of the cells of u ("u"), or 3 % of both fields ("both"). It prints mean relative errors in L2 of a and u, what
is left of the equation (rms; its right-hand side is 1), and the network evaluations and vector-Jacobian products of each
method: the denoiser form of `diffusion_pde`, without and with the equation, the published loops, whose weights are searched
for on other fields for every number of steps, the best linear estimate, which needs no network, and the prior alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import click
import torch
from darcy import LOG, MEAN, SCHEDULE, STD, Prior, fields, residual, save, saved, smoothed, train
from matplotlib.figure import Figure
from torch import Tensor

from fewstep import Denoiser, sample
from fewstep.samplers import guidance

NOISE = {"field": guidance.GaussianField(0.05), "white": None}
RULES = ("fun_dps", "diffusion_pde")


def places(n: int, share: float, seed: int) -> dict[str, Tensor]:
    """The known cells of each problem, bool (2, n, n)."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(n * n, generator=draw).view(n, n) for _ in range(2)])
    both = order < round(share * n * n)
    return {"u": both & torch.tensor([False, True])[:, None, None], "both": both}


def start(denoiser: Denoiser, seeds: range, shape: torch.Size) -> Tensor:
    """x_T, one seed a sample."""
    if denoiser.field is not None:
        return SCHEDULE.sigma_max * denoiser.field.draw(shape, seeds)
    return SCHEDULE.initial_noise((len(seeds), *shape), [torch.Generator().manual_seed(k) for k in seeds])


def linear(prior: Prior, y: Tensor, known: Tensor, noise_std: float = 0.01) -> Tensor:
    """E[x0 | y] if the data were Gaussian with their own covariance."""
    V = prior.basis[known.flatten()]
    cross = (prior.basis * prior.data) @ V.T
    gain = torch.linalg.solve((V * prior.data) @ V.T + noise_std**2 * torch.eye(len(V)), cross.T)
    return prior.mean + ((y - prior.mean[known]) @ gain).view(-1, *prior.mean.shape)


def errors(x: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """Mean relative L2 errors of a and u, and the rms of the residual."""
    a, u = ((lambda s: (LOG * s[:, 0]).exp()), (lambda s: MEAN + STD * s[:, 1]))
    far = [((f(x) - f(truth)).flatten(1).norm(dim=1) / f(truth).flatten(1).norm(dim=1)).mean() for f in (a, u)]
    return float(far[0]), float(far[1]), float(residual(x).square().mean().sqrt())


def guided(
    denoiser: Denoiser, y: Tensor, known: Tensor, nfe: int, iterations: int, equation: bool, seed: int = 0
) -> Tensor:
    """The denoiser form, sampled by a multistep SDE solver, whose noise wears off the errors of earlier steps."""
    g = guidance.diffusion_pde(denoiser, y, known, smoothed if equation else None, 0.01, 0.1, iterations=iterations)
    seeds = range(seed * len(y), (seed + 1) * len(y))
    return sample(g, start(denoiser, seeds, known.shape), "dpmpp_2m_sde", nfe, noise_seeds=seeds)


def loop(denoiser: Denoiser, y: Tensor, known: Tensor, steps: int, rule: str, weights: tuple[float, float]) -> Tensor:
    """A published loop; NaN where the weights make it explode."""
    x_T = start(denoiser, range(len(y)), known.shape)
    try:
        return guidance.fun_dps(denoiser, x_T, y, known, residual, steps, weights=weights, rule=rule)
    except ValueError:
        return torch.full_like(x_T, math.nan)


def searched(denoiser: Denoiser, truth: Tensor, known: Tensor, steps: int, rule: str) -> tuple[float, float]:
    """The weights of least error of u and a on other fields: first that of the measurements, then the equation's."""

    def score(*weights: float) -> float:
        found = errors(loop(denoiser, truth[:, known], known, steps, rule, weights), truth)
        return found[0] + found[1] if math.isfinite(found[0] + found[1]) else math.inf

    w_obs = least(lambda w: score(w, 0.0), 1000.0)
    return w_obs, least(lambda w: score(w_obs, w), 100.0)


def least(score: Callable[[float], float], start: float, factor: float = 10**0.5) -> float:
    """Where a function has its valley, by steps of a factor."""
    best = score(start)
    for turn in (factor, 1 / factor):
        while (found := score(start * turn)) < best:
            start, best = start * turn, found
    return start


def draw(truth: Tensor, known: Tensor, rows: list[tuple[str, Tensor]], out: str) -> None:
    """One field: truth with the known cells, then every method's a and u beside their errors."""
    figure = Figure((7.6, 1.9 * (len(rows) + 1)), layout="constrained")
    axes = figure.subplots(len(rows) + 1, 4, squeeze=False)
    for line, (name, x) in zip(axes, [("truth", truth), *rows], strict=True):
        for c, label in enumerate(("a", "u")):
            value, error, top = x[c], (x[c] - truth[c]).abs(), (1.0, 0.3)[c]
            line[2 * c].imshow(value.numpy(), cmap="viridis", vmin=float(truth[c].min()), vmax=float(truth[c].max()))
            line[2 * c].set_title(f"{name}: {label}", fontsize=8)
            if name == "truth":
                line[2 * c + 1].imshow(torch.where(known[c], value, math.nan).numpy(), cmap="viridis")
                line[2 * c + 1].set_title(f"known of {label}", fontsize=8)
            else:
                line[2 * c + 1].imshow(error.numpy(), cmap="magma", vmin=0, vmax=top)
                line[2 * c + 1].set_title(f"error, rms {float(error.square().mean().sqrt()):.3f}", fontsize=8)
    for ax in axes.flat:
        ax.set_xticks([]), ax.set_yticks([])
    figure.savefig(out, dpi=110)


@torch.no_grad()
def recover(
    prior: Prior,
    denoiser: Denoiser,
    truth: Tensor,
    other: Tensor,
    known: Tensor,
    problem: str,
    plan: tuple[list[int], list[int], list[int], int],
) -> list[tuple[str, Tensor]]:
    """A line of the table for every method; the first field by some of them, to be drawn."""
    (nfe, iterations, loops, draws), y, found = plan, truth[:, known], {}

    def show(name: str, x: Tensor, calls: int, products: int) -> None:
        a, u, left = errors(x, truth)
        click.echo(f"{problem:5}  {name:30} {calls:5} {products:5}    {a:8.4f}  {u:8.4f}  {left:8.3f}")
        found[name.split(",")[0]] = x[0]

    show("prior alone", sample(denoiser, start(denoiser, range(len(y)), known.shape), "dpmpp_2m", 20), 20, 0)
    show("linear estimate", linear(prior, y, known), 0, 0)
    for n in loops:
        for rule in RULES:
            best = searched(denoiser, other, known, n, rule)
            show(
                f"{rule}, {best[0]:.3g} {best[1]:.3g}", loop(denoiser, y, known, n, rule, best), 2 * n - 1, 2 * (n - 1)
            )
    for n in nfe:
        for k in iterations:
            show(f"denoiser form, {k} a call", guided(denoiser, y, known, n, k, False), n, k * n)
        show(f"with the equation, {k} a call", guided(denoiser, y, known, n, k, True), n, k * n)
    n, k = nfe[0], iterations[-1]
    several = [guided(denoiser, y, known, n, k, False, seed) for seed in range(draws)]
    show(f"mean of {draws} samples, {k} a call", torch.stack(several).mean(0), draws * n, draws * k * n)
    return [(name, x) for name, x in found.items() if name != "prior alone"]


def numbers(_: object, __: object, text: str) -> list[int]:
    return [int(v) for v in text.split(",") if v]


@click.command()
@click.option("--weights", type=click.Path(dir_okay=False, path_type=Path), default="darcy.safetensors", show_default=True,
              help="Of the prior; trained and written where the file is not there.")  # fmt: skip
@click.option("--noise", type=click.Choice(list(NOISE)), default="field", show_default=True, help="Of the prior.")
@click.option("--train-fields", default=4000, show_default=True, help="Solved pairs to learn from.")
@click.option("--steps", default=20000, show_default=True, help="Most updates of the training.")
@click.option("--train-minutes", default=10.0, show_default=True, help="Most minutes of the training.")
@click.option("--modes", default=256, show_default=True, help="Components of the data that the prior knows.")
@click.option("--side", default=32, show_default=True, help="Cells of a side.")
@click.option("--fields", "count", default=16, show_default=True, help="Fields to recover.")
@click.option("--share", default=0.03, show_default=True, help="Of the cells that are known.")
@click.option(
    "--nfe", callback=numbers, default="20,50,100", show_default=True, help="Evaluations of the denoiser form."
)
@click.option("--iterations", callback=numbers, default="1,4,12", show_default=True, help="Products a call.")
@click.option("--loops", callback=numbers, default="50,250", show_default=True, help="Steps of the published loops.")
@click.option("--draws", default=8, show_default=True, help="Samples whose mean is one more estimate.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="darcy.png", show_default=True)
def main(
    weights,
    noise,
    train_fields,
    steps,
    train_minutes,
    modes,
    side,
    count,
    share,
    nfe,
    iterations,
    loops,
    draws,
    seed,
    out,
):
    """Recover a and u of Darcy flow from sparse measurements."""
    field = NOISE[noise]
    if weights.exists():
        prior = saved(weights)
    else:
        prior = Prior((2, side, side), modes)
        loss = train(prior, fields(train_fields, side, seed=10**6), field, steps, train_minutes)
        click.echo(f"trained: loss {loss:.3f} of a linear denoiser's; saved to {weights}")
        save(prior.requires_grad_(False), weights)
    click.echo("known  method                          nfe  VJPs    error of a  of u   residual")
    truth, other = fields(count, side, seed), fields(4, side, seed + 10**5)
    for problem, known in places(side, share, seed).items():
        rows = recover(prior, prior.denoiser(field), truth, other, known, problem, (nfe, iterations, loops, draws))
        draw(truth[0], known, rows, str(Path(out).with_stem(f"{Path(out).stem}-{problem}")))


if __name__ == "__main__":
    main()
