"""Compositional inverse design: bodies that touch, in a flow, from models of one body or of two.

    python examples/compositional_design.py               # two bodies from a model of one
    python examples/compositional_design.py --bodies 3    # three from models of neighbouring pairs

A body is a cylinder: where it is and how thick, (x, y, log r); the models know which single bodies are likely, or how two
neighbours lie, and were never shown them all. `guidance.parts` puts them in their places of the whole state: independent of
each other, or a chain p(1, 2) p(2, 3) / p(2), and objectives go around the whole: neighbours shall touch, and behind them, in
the potential flow of the stream and all of them, the air shall be slow. It prints gap and speed of bodies that were drawn by
the models alone, and of those that were designed together.
"""

import click
import torch
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, sample
from fewstep.samplers import guidance

MEANS = torch.tensor([[-0.6, 0.4, -1.2], [0.5, -0.3, -0.9], [0.0, 0.6, -1.5], [0.2, -0.7, -1.1]])
STDS, PROBE = torch.tensor([0.35, 0.35, 0.2]), (1.5, 0.0)
ALIKE, APART = 0.6, torch.tensor([0.2, -0.15, 0.0])  # of neighbours: correlation, and how the next one's mean lies


def model(schedule: NoiseSchedule, first: int, count: int) -> Denoiser:
    """`count` neighbours from body `first` on: a mixture of four kinds, with its exact network."""
    places = torch.arange(first, first + count)
    means = (MEANS[:, None] + places[:, None] * APART).flatten(1)
    corr = ALIKE ** (places[:, None] - places).abs().float()
    cov = torch.kron(corr, torch.diag(STDS**2))

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        t = float(schedule.time_of_model(float(tau)))
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        solved = torch.linalg.inv(alpha**2 * cov + sigma**2 * torch.eye(len(cov)))
        gap = x[:, None] - alpha * means
        weights = torch.softmax(-0.5 * torch.einsum("nki,ij,nkj->nk", gap, solved, gap), -1)[..., None]
        return (weights * (means + gap @ (alpha * cov @ solved).T)).sum(1)

    return Denoiser(fn, schedule, "sample")


def composed(schedule: NoiseSchedule, bodies: int) -> Denoiser:
    """All bodies: two that know nothing of each other, or a chain of neighbouring pairs."""
    place = lambda k, count: slice(3 * k, 3 * (k + count))  # noqa: E731
    if bodies == 2:
        return guidance.parts([(model(schedule, 0, 1), place(k, 1)) for k in range(2)])
    pairs = [(model(schedule, k, 2), place(k, 2)) for k in range(bodies - 1)]
    shared = [(model(schedule, k, 1), place(k, 1)) for k in range(1, bodies - 1)]
    return guidance.parts([*pairs, *shared], exponents=[1.0] * len(pairs) + [-1.0] * len(shared))


def gaps(bodies: Tensor) -> Tensor:
    """(designs, bodies - 1): distance between the surfaces of neighbours, below 0 where they overlap."""
    each = bodies.unflatten(1, (-1, 3))
    a, b = each[:, :-1], each[:, 1:]
    return (a[..., :2] - b[..., :2]).square().sum(-1).add(1e-6).sqrt() - a[..., 2].exp() - b[..., 2].exp()


def speed(bodies: Tensor) -> Tensor:
    """|u| at the probe: a stream of 1 along x and a doublet for each cylinder, u - iv = 1 - sum r^2 / z^2."""
    each = bodies.unflatten(1, (-1, 3))
    x, y, r = PROBE[0] - each[..., 0], PROBE[1] - each[..., 1], each[..., 2].exp()
    far = (x**2 + y**2).clamp(min=1e-2) ** 2
    u, v = 1 - (r**2 * (x**2 - y**2) / far).sum(1), -(r**2 * 2 * x * y / far).sum(1)
    return (u**2 + v**2).sqrt()


@click.command()
@click.option("--bodies", type=click.IntRange(2), default=2, show_default=True)
@click.option("--designs", default=256, show_default=True)
@click.option("--nfe", default=40, show_default=True, help="Network evaluations of each model.")
@click.option("--touch", default=8.0, show_default=True, help="Weight of touching.")
@click.option("--slow", default=4.0, show_default=True, help="Weight of slow air.")
@click.option("--seed", default=0, show_default=True)
def main(bodies: int, designs: int, nfe: int, touch: float, slow: float, seed: int) -> None:
    """Design bodies from models of their parts."""
    schedule = NoiseSchedule.vp_linear()
    alone, shape = composed(schedule, bodies), (designs, 3 * bodies)
    loss = lambda x: touch * gaps(x).square().sum(1) + slow * speed(x).square()  # noqa: E731
    together = guidance.fkc(alone, reward=lambda x: -loss(x))
    x_T = schedule.initial_noise(shape, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        apart = sample(alone, x_T, "dpmpp_2m", nfe)
    seeds = range(seed, seed + designs)
    x0 = sample(together.denoiser, together.initial_noise(shape, seeds=seeds), "dpmpp_2m_sde", nfe,
                noise_seeds=seeds, hook=together)  # fmt: skip
    for name, found in (("alone", apart), ("together", together.unweighted(x0))):
        click.echo(f"{name:8}: gap {gaps(found).abs().mean():.3f}, speed behind them {speed(found).mean():.3f}")
    click.echo(str(together.health()))


if __name__ == "__main__":
    main()
