"""A morph from one digit to another, made even: short and equal steps in a classifier's features.

    python examples/morph.py

The path runs from one noise to another, and from one class embedding to the other. Interpolated on great circles it lingers
and jumps. Noises and embeddings between the ends then follow the gradient of the path's energy, the sum of squared steps in
features, through all evaluations: it is least where the steps are short and equal. It prints the longest step over the mean
one and the length of the path, and draws the strip before and after.
"""

import click
import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from fewstep import Denoiser, NoiseSchedule, adjoint, load_demo_pipeline
from fewstep.demo import load_demo_classifier


def slerp(a: Tensor, b: Tensor, s: Tensor) -> Tensor:
    """Points on the great circle from a to b, (len(s), *a.shape), with lengths between theirs."""
    angle = torch.acos((a * b).sum() / (a.norm() * b.norm()))
    s = s.view(-1, *(1,) * a.ndim)
    return (torch.sin((1 - s) * angle) * a + torch.sin(s * angle) * b) / torch.sin(angle)


def unit(g: Tensor) -> Tensor:
    """Every row's gradient at length 1."""
    return g / g.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, *(1,) * (g.ndim - 1))


@click.command()
@click.option("--start", default=1, show_default=True, help="The first digit.")
@click.option("--end", default=8, show_default=True, help="The last digit.")
@click.option("--images", default=12, show_default=True, help="Images of the strip.")
@click.option("--steps", default=25, show_default=True, help="Gradient steps.")
@click.option("--size", default=0.014, show_default=True, help="Length of the first step over that of the noise.")
@click.option("--nfe", default=6, show_default=True, help="Network evaluations.")
@click.option("--seed", default=1, show_default=True)
@click.option("--out", default="morph.png", show_default=True)
def main(start: int, end: int, images: int, steps: int, size: float, nfe: int, seed: int, out: str) -> None:
    """Morph two digits."""
    pipe, classifier = load_demo_pipeline(), load_demo_classifier()
    unet, schedule = pipe.unet.requires_grad_(False), NoiseSchedule.from_config(pipe.scheduler.config)
    embeddings, unet.class_embedding = unet.class_embedding.weight, nn.Identity()  # labels are embeddings from here on
    ends = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    s = torch.linspace(0, 1, images)
    noise, label = slerp(ends[0], ends[1], s), slerp(embeddings[start], embeddings[end], s)
    free = [noise[1:-1].clone().requires_grad_(), label[1:-1].clone().requires_grad_()]

    def path() -> Tensor:
        x_T, y = (torch.cat([all[:1], part, all[-1:]]) for all, part in zip((noise, label), free, strict=True))
        denoiser = Denoiser(lambda x, t: unet(x, t, class_labels=y).sample, schedule)
        return adjoint.sample(denoiser, x_T, "dpmpp_2m", nfe, cond=y)

    strips, velocity = [], [torch.zeros_like(part) for part in free]
    sizes = (28 * size, 4 * size)  # noises have the length 28; embeddings, 11, are more sensitive
    for step in range(steps + 1):
        x0 = path()
        moves = classifier.features(x0).diff(dim=0).norm(dim=1)
        if step in (0, steps):
            strips.append(x0.detach())
            click.echo(
                f"after {step:>3} steps: longest / mean {moves.max() / moves.mean():.2f}, length {moves.sum():.2f}"
            )
        gradients = torch.autograd.grad(moves.square().sum(), free)
        velocity = [0.8 * v + unit(g) for v, g in zip(velocity, gradients, strict=True)]
        with torch.no_grad():
            for part, v, length in zip(free, velocity, sizes, strict=True):
                part -= length * (1 - step / (steps + 1)) * v
            free[0].copy_(28 * unit(free[0]))
    save_image((torch.cat(strips) + 1) / 2, out, nrow=images, pad_value=0.5)


if __name__ == "__main__":
    main()
