"""A classifier audited by a generative model: small moves of the noise that keep the class asked for and make it err.

    python examples/audit_classifier.py

Every sample that the classifier reads as its class is moved within a ball around its noise, along the gradient of the margin
(logit of the class less the largest other) through all evaluations, until the classifier errs. The model goes on being asked
for the same class; whether it still draws it is for the eye. It prints how many readings flip within the ball, and how many
under random moves of its radius; the picture has the samples, the changed ones with what the classifier says, and the
difference.
"""

import click
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, adjoint, load_demo_pipeline
from fewstep.demo import load_demo_classifier


def length(v: Tensor) -> Tensor:
    return v.square().sum((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the class less the largest other: negative where the classifier errs."""
    own = logits.gather(1, labels[:, None])
    return own[:, 0] - logits.scatter(1, labels[:, None], -torch.inf).amax(1)


def draw(rows: list[Tensor], titles: list[list[str]], out: str) -> None:
    figure = Figure((0.9 * len(rows[0]), 3.3), layout="constrained")
    axes = figure.subplots(3, len(rows[0]), squeeze=False)
    for images, line, names in zip([*rows, rows[1] - rows[0]], axes, [*titles, [""] * len(rows[0])], strict=True):
        for image, ax, name in zip(images, line, names, strict=True):
            ax.imshow(image[0].numpy(), cmap="gray", vmin=-1, vmax=1)
            ax.set_title(name, fontsize=8)
            ax.axis("off")
    figure.savefig(out, dpi=120)


@click.command()
@click.option("--images", default=10, show_default=True, help="How many; image k is asked to be the digit k.")
@click.option("--radius", default=3.0, show_default=True, help="Of the ball; the noise has the length 28.")
@click.option("--steps", default=12, show_default=True, help="Gradient steps at most.")
@click.option("--nfe", default=6, show_default=True, help="Network evaluations.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="audit.png", show_default=True)
def main(images: int, radius: float, steps: int, nfe: int, seed: int, out: str) -> None:
    """Look for samples of a class that the classifier takes for another."""
    pipe, classifier = load_demo_pipeline(), load_demo_classifier()
    unet, schedule = pipe.unet.requires_grad_(False), NoiseSchedule.from_config(pipe.scheduler.config)
    labels = torch.arange(images) % 10
    denoiser = Denoiser(lambda x, t: unet(x, t, class_labels=labels).sample, schedule)

    def drawn(move: Tensor) -> Tensor:
        return adjoint.sample(denoiser, x_T + move, "dpmpp_2m", nfe)

    generator = torch.Generator().manual_seed(seed)
    x_T = torch.randn(images, 1, 28, 28, generator=generator)
    wander = torch.randn(x_T.shape, generator=generator)
    move = torch.zeros_like(x_T)
    with torch.no_grad():
        before, random = drawn(move), drawn(radius * wander / length(wander))
    right = margin(classifier(before), labels) > 0
    for _ in range(steps):
        kept = margin(classifier(drawn(move.requires_grad_())), labels)
        (gradient,) = torch.autograd.grad(kept.sum(), move)
        step = (kept > 0).view(-1, 1, 1, 1) * radius / 4 * gradient / length(gradient)  # those that err have arrived
        move = (move - step).detach()
        move = move * (radius / length(move)).clamp(max=1)
    with torch.no_grad():
        after = drawn(move)
    for name, x0 in (("gradient", after), ("random", random)):
        flipped = right & (margin(classifier(x0), labels) < 0)
        click.echo(
            f"{name:>8} moves of at most {radius:g}: {int(flipped.sum()):>2} of {int(right.sum())} readings flip"
        )
    readings = [
        [f"{k} read {g}" for k, g in zip(labels, classifier(x).argmax(1), strict=True)] for x in (before, after)
    ]
    draw([before, after], readings, out)


if __name__ == "__main__":
    main()
