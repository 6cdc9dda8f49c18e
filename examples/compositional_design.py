"""Compositional inverse design: two bodies that touch, in a flow, from a model of one body.

    python examples/compositional_design.py

A body is a cylinder: where it is and how thick, (x, y, log r); the model knows which single bodies are likely, and was never
shown two. `guidance.parts` puts one model in two places of a state of six numbers, and objectives go around the whole: the
bodies shall touch, and behind them, in the potential flow of the stream and both, the air shall be slow. It prints gap and
speed for bodies that were drawn alone, and for those that were designed together.
"""

import click
import torch
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, sample
from fewstep.samplers import guidance

MEANS = torch.tensor([[-0.6, 0.4, -1.2], [0.5, -0.3, -0.9], [0.0, 0.6, -1.5], [0.2, -0.7, -1.1]])
STDS, PROBE = torch.tensor([0.35, 0.35, 0.2]), (1.5, 0.0)


def one_body(schedule: NoiseSchedule) -> Denoiser:
    """A mixture of four kinds of body, with its exact network."""

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        t = float(schedule.time_of_model(float(tau)))
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        variance = (alpha * STDS) ** 2 + sigma**2
        gap = x[:, None] - alpha * MEANS
        weights = torch.softmax(-0.5 * (gap**2 / variance).sum(-1), -1)[..., None]
        return (weights * (MEANS + alpha * STDS**2 * gap / variance)).sum(1)

    return Denoiser(fn, schedule, "sample")


def gaps(bodies: Tensor) -> Tensor:
    """Distance between the surfaces, below 0 where they overlap."""
    a, b = bodies[:, :3], bodies[:, 3:]
    return (a[:, :2] - b[:, :2]).square().sum(1).add(1e-6).sqrt() - a[:, 2].exp() - b[:, 2].exp()


def speed(bodies: Tensor) -> Tensor:
    """|u| at the probe: a stream of 1 along x and a doublet for each cylinder, u - iv = 1 - sum r^2 / z^2."""
    u, v = torch.ones(len(bodies)), torch.zeros(len(bodies))
    for body in (bodies[:, :3], bodies[:, 3:]):
        x, y, r = PROBE[0] - body[:, 0], PROBE[1] - body[:, 1], body[:, 2].exp()
        far = (x**2 + y**2).clamp(min=1e-2) ** 2
        u, v = u - r**2 * (x**2 - y**2) / far, v - r**2 * 2 * x * y / far
    return (u**2 + v**2).sqrt()


@click.command()
@click.option("--designs", default=256, show_default=True)
@click.option("--nfe", default=40, show_default=True, help="Network evaluations of each body.")
@click.option("--touch", default=8.0, show_default=True, help="Weight of touching.")
@click.option("--slow", default=4.0, show_default=True, help="Weight of slow air.")
@click.option("--seed", default=0, show_default=True)
def main(designs: int, nfe: int, touch: float, slow: float, seed: int) -> None:
    """Design two bodies from a model of one."""
    schedule = NoiseSchedule.vp_linear()
    body = one_body(schedule)
    alone = guidance.parts([(body, slice(0, 3)), (body, slice(3, 6))])
    loss = lambda x: touch * gaps(x).square() + slow * speed(x).square()  # noqa: E731
    together = guidance.fkc(alone, reward=lambda x: -loss(x))
    x_T = schedule.initial_noise((designs, 6), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        apart = sample(alone, x_T, "dpmpp_2m", nfe)
    seeds = range(seed, seed + designs)
    x0 = sample(together.denoiser, together.initial_noise((designs, 6), seeds=seeds), "dpmpp_2m_sde", nfe,
                noise_seeds=seeds, hook=together)  # fmt: skip
    for name, bodies in (("alone", apart), ("together", together.unweighted(x0))):
        click.echo(f"{name:8}: gap {gaps(bodies).abs().mean():.3f}, speed behind them {speed(bodies).mean():.3f}")
    click.echo(str(together.health()))


if __name__ == "__main__":
    main()
