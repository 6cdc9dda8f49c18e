"""Digits of the classes asked for, guided in six ways at equal cost.

    python examples/guide_classes.py

Every method spends the same number of network evaluations an image, a gradient through the network counted as one: two
networks a step are half as many steps. `none` has no guidance, and `classifier` a network that knows no classes at all, led
by a classifier of clean digits. Prints how many images another look of that classifier reads as the digit asked for (of the
guided by it, it is no neutral judge), and draws a row of each.
"""

from collections.abc import Callable, Iterator

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, build, load_demo_pipeline, sample
from fewstep.demo import load_demo_classifier
from fewstep.demo.pipeline import NULL_CLASS
from fewstep.samplers import guidance

INTERVAL = (0.3, 3.0)  # of sigma / alpha, where "interval" guides
CLEAR = 10.0  # below which predicted x0 is something that a classifier can read


def methods(
    c: Denoiser, u: Denoiser, judge: torch.nn.Module, digits: Tensor, scale: float, share: float, pull: float
) -> dict[str, tuple[Denoiser, Callable[[float], int]]]:
    """Guided denoisers, and what a call at a level sigma / alpha costs."""
    led = guidance.classifier(u, judge, digits, lambda rho: pull * (rho < CLEAR), clean=True)
    return {
        "none": (c, lambda rho: 1),
        "cfg": (guidance.cfg(c, u, scale), lambda rho: 2),
        "interval": (guidance.cfg(c, u, scale, interval=INTERVAL), lambda rho: 1 + (INTERVAL[0] < rho <= INTERVAL[1])),
        "apg": (guidance.apg(c, u, scale), lambda rho: 2),
        "cfg_pp": (guidance.cfg_pp(c, u, share), lambda rho: 2),
        "classifier": (led, lambda rho: 2),
    }


def compared(
    images: int, evaluations: int, scale: float, share: float, pull: float, solver: str, seed: int
) -> Iterator[tuple[str, Tensor, int, int, Tensor]]:
    """Of each method: name, images, steps, evaluations an image, and the probability (B, 10) of every digit."""
    pipe, judge = load_demo_pipeline(), load_demo_classifier()
    unet, schedule = pipe.unet.requires_grad_(False), NoiseSchedule.from_config(pipe.scheduler.config)
    digits = torch.arange(images) % 10

    def network(labels: Tensor) -> Denoiser:
        return Denoiser(lambda x, t: unet(x, t, class_labels=labels).sample, schedule)

    c, u = network(digits), network(torch.full((images,), NULL_CLASS))
    x_T = schedule.initial_noise((images, 1, 28, 28), torch.Generator().manual_seed(seed))
    for name, (denoiser, cost) in methods(c, u, judge, digits, scale, share, pull).items():
        for nfe in range(evaluations, 0, -1):
            table = build(solver, schedule, nfe=nfe)
            spent = sum(map(cost, np.exp(-table.nodes.lam[:-1])))
            if spent <= evaluations:
                break
        with torch.no_grad():
            x0 = sample(denoiser, x_T, table)
            yield name, x0, nfe, spent, judge(x0).softmax(1)


def read(p: Tensor) -> tuple[float, float]:
    """Share of images that are the digit asked for, k mod 10, and the mean probability of it."""
    digits = torch.arange(len(p)) % 10
    return float((p.argmax(1) == digits).float().mean()), float(p[torch.arange(len(p)), digits].mean())


def draw(rows: dict[str, tuple[Tensor, float]], out: str) -> None:
    """A row of images for every method, with its share of right ones."""
    figure = Figure((8, 0.85 * len(rows)), layout="constrained")
    for ax, (name, (images, right)) in zip(
        figure.subplots(len(rows), 1, squeeze=False).flat, rows.items(), strict=True
    ):
        ax.imshow(np.hstack(images[:10, 0].numpy()), cmap="gray", vmin=-1, vmax=1)
        ax.set_ylabel(f"{name}\n{100 * right:.0f} %", rotation=0, ha="right", va="center", fontsize=8)
        ax.set(xticks=[], yticks=[])
    figure.savefig(out, dpi=120)


@click.command()
@click.option("--images", default=100, show_default=True, help="How many; image k shall be the digit k mod 10.")
@click.option("--evaluations", default=12, show_default=True, help="Network evaluations an image.")
@click.option("--scale", default=2.0, show_default=True, help="Of cfg and its kin.")
@click.option("--share", default=1.0, show_default=True, help="Scale of CFG++, 0 to 1.")
@click.option("--pull", default=8.0, show_default=True, help="Scale of the classifier.")
@click.option("--solver", default="dpmpp_2m", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="classes.png", show_default=True)
def main(
    images: int, evaluations: int, scale: float, share: float, pull: float, solver: str, seed: int, out: str
) -> None:
    """Compare class guidance at equal network evaluations."""
    rows = {}
    for name, x0, nfe, spent, p in compared(images, evaluations, scale, share, pull, solver, seed):
        right, mean = read(p)
        rows[name] = (x0, right)
        click.echo(
            f"{name:>10}: {nfe:>2} steps, {spent:>2} evaluations, {100 * right:5.1f} % right, mean probability {mean:.3f}"
        )
    draw(rows, out)


if __name__ == "__main__":
    main()
