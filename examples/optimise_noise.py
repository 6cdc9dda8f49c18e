"""The initial noise optimised for a reward: the log-probability that a classifier gives to a digit.

    python examples/optimise_noise.py

The network draws digits of no particular class. Only the noise is changed, by the gradient of the reward through all
evaluations: steps of one length with momentum, after each of which the noise is standardised, so that it stays one that
the network knows (`guidance.doodl`). Image k shall become the digit k. It prints the mean probability of the digits asked
for, and draws them before and after.
"""

import click
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, load_demo_pipeline, sample
from fewstep.demo import load_demo_classifier
from fewstep.demo.pipeline import NULL_CLASS
from fewstep.samplers import guidance


def draw(rows: list[tuple[Tensor, Tensor]], digits: Tensor, out: str) -> None:
    """A row of images before and one after, each with the probability of its digit."""
    figure = Figure((len(digits), 2.6), layout="constrained")
    axes = figure.subplots(len(rows), len(digits), squeeze=False)
    for (images, p), line in zip(rows, axes, strict=True):
        for k, ax in enumerate(line):
            ax.imshow(images[k, 0].numpy(), cmap="gray", vmin=-1, vmax=1)
            ax.set_title(f"p({digits[k]}) = {p[k]:.2f}", fontsize=8)
            ax.axis("off")
    figure.savefig(out, dpi=120)


@click.command()
@click.option("--images", default=10, show_default=True, help="How many; image k shall become the digit k.")
@click.option("--steps", default=20, show_default=True, help="Gradient steps.")
@click.option("--size", default=2.0, show_default=True, help="Length of a step; the noise has 28.")
@click.option("--nfe", default=6, show_default=True, help="Network evaluations.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="noise.png", show_default=True)
def main(images: int, steps: int, size: float, nfe: int, seed: int, out: str) -> None:
    """Optimise noise for a classifier's probability."""
    pipe, classifier = load_demo_pipeline(), load_demo_classifier()
    unet, schedule = pipe.unet.requires_grad_(False), NoiseSchedule.from_config(pipe.scheduler.config)
    labels, digits = torch.full((images,), NULL_CLASS), torch.arange(images) % 10
    denoiser = Denoiser(lambda x, t: unet(x, t, class_labels=labels).sample, schedule)

    x_T = torch.randn(images, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        before = sample(denoiser, x_T, "dpmpp_2m", nfe)

    def log_p(x0: Tensor) -> Tensor:
        return classifier(x0).log_softmax(1)[torch.arange(images), digits]

    found = guidance.doodl(
        denoiser, x_T, lambda x0: -log_p(x0), "dpmpp_2m", nfe, iterations=steps, clip=size / 28, momentum=0.5
    )
    rows = [(x0, log_p(x0).exp()) for x0 in (before, found.x0)]
    for step, (_, p) in zip((0, steps), rows, strict=True):
        click.echo(f"after {step:>3} steps: mean probability {p.mean():.3f}, least {p.min():.3f}")
    draw(rows, digits, out)


if __name__ == "__main__":
    main()
