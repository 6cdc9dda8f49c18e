"""Pictures and strokes of a pen pulled to digits by score distillation, without a sampler.

    python examples/distil_digits.py
    python examples/distil_digits.py --mode vsd --steps 300

Image k shall become the digit k. Two things are optimised: the pixels themselves, and a small differentiable renderer, eighteen
soft strokes an image, each with a place, a direction, a length, a width and an ink. `guidance.distil` gives the loss: "cfd" and
"dsd" follow one path a seed, "sds" draws noise anew, "sdi" inverts the image, "vsd" keeps the images of a batch apart. It
prints the mean probability that a classifier gives to the digits asked for, and draws both.
"""

import click
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from fewstep import Denoiser, NoiseSchedule, load_demo_pipeline
from fewstep.demo import load_demo_classifier
from fewstep.samplers import guidance


class Pixels(nn.Module):
    """Every pixel by itself."""

    rate = 0.1

    def __init__(self, images: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(images, 1, 28, 28))

    def forward(self) -> Tensor:
        return self.values


class Strokes(nn.Module):
    """Soft strokes: ink exp(-(along / length)^4 - (across / width)^2), laid over each other."""

    rate = 0.03

    def __init__(self, images: int, strokes: int = 18, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.place = nn.Parameter(0.5 * torch.randn(images, strokes, 2, generator=g))
        self.turn = nn.Parameter(3 * torch.randn(images, strokes, generator=g))
        self.size = nn.Parameter(torch.tensor([-1.6, -2.4]).repeat(images, strokes, 1))
        self.ink = nn.Parameter(torch.full((images, strokes), -1.0))
        axis = torch.linspace(-1, 1, 28)
        self.register_buffer("grid", torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(1, 1, 784, 2))

    def forward(self) -> Tensor:
        gap = self.grid - self.place[:, :, None]
        cos, sin = self.turn.cos()[..., None], self.turn.sin()[..., None]
        along, across = gap[..., 0] * cos + gap[..., 1] * sin, gap[..., 1] * cos - gap[..., 0] * sin
        length, width = self.size.exp()[..., None].unbind(2)
        drawn = self.ink.sigmoid()[..., None] * torch.exp(-((along / length) ** 4) - (across / width) ** 2)
        return (1 - 2 * (1 - drawn).prod(1)).view(-1, 1, 28, 28)


def draw(rows: list[tuple[Tensor, Tensor]], out: str) -> None:
    """A row of images for each thing that was optimised, with the probability of its digit."""
    images = len(rows[0][0])
    figure = Figure((images, 1.3 * len(rows)), layout="constrained")
    for (pictures, p), line in zip(rows, figure.subplots(len(rows), images, squeeze=False), strict=True):
        for k, ax in enumerate(line):
            ax.imshow(pictures[k, 0].numpy(), cmap="gray", vmin=-1, vmax=1)
            ax.set_title(f"p({k % 10}) = {p[k]:.2f}", fontsize=8)
            ax.axis("off")
    figure.savefig(out, dpi=120)


@click.command()
@click.option("--images", default=10, show_default=True, help="How many; image k shall become the digit k.")
@click.option("--steps", default=120, show_default=True, help="Of Adam; a network call each.")
@click.option("--mode", default="cfd", show_default=True, help="sds, vsd, sdi, dsd or cfd.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="distilled.png", show_default=True)
def main(images: int, steps: int, mode: str, seed: int, out: str) -> None:
    """Optimise pixels and strokes by score distillation."""
    pipe, classifier = load_demo_pipeline(), load_demo_classifier()
    unet, schedule = pipe.unet.requires_grad_(False), NoiseSchedule.from_config(pipe.scheduler.config)
    digits = torch.arange(images) % 10
    denoiser = Denoiser(lambda x, t: unet(x, t, class_labels=digits).sample, schedule)
    own = {"seeds": range(seed, seed + images)} if mode in ("cfd", "dsd") else {}
    own |= {"student": "particles"} if mode == "vsd" else {}
    rows = []
    for renderer in (Pixels(images), Strokes(images, seed=seed)):
        loss = guidance.distil(denoiser, mode, steps=steps, generator=torch.Generator().manual_seed(seed), **own)
        optimizer = torch.optim.Adam(renderer.parameters(), lr=renderer.rate, betas=(0.5, 0.99))
        for k in range(steps):
            optimizer.zero_grad()
            loss(renderer(), step=k).backward()
            optimizer.step()
        with torch.no_grad():
            pictures = renderer().detach()
            p = classifier(pictures).softmax(1)[torch.arange(images), digits]
        rows.append((pictures, p))
        click.echo(f"{type(renderer).__name__.lower()}: mean probability {p.mean():.3f}, least {p.min():.3f}")
    draw(rows, out)


if __name__ == "__main__":
    main()
