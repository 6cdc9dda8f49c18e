"""A conditioning vector learned from one scalar metric: bold digits, for which the model has no class.

    python examples/learn_conditioning.py

The embedding of a class is replaced by a free vector, which starts there and follows the gradient of the metric through all
evaluations, each step on new noise. The metric is the share of ink: of pixels brighter than the middle, softly counted. It
prints the ink of samples from noise that the vector was not trained on, and how many the classifier still reads as the digit,
and draws them along the way, a row at a time.
"""

import click
import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from fewstep import Denoiser, NoiseSchedule, adjoint, load_demo_pipeline
from fewstep.demo import load_demo_classifier


def ink(x: Tensor) -> Tensor:
    """Share of bright pixels of every image."""
    return (x / 0.1).sigmoid().mean((1, 2, 3))


@click.command()
@click.option("--digit", default=3, show_default=True, help="The class to start from.")
@click.option("--target", default=0.2, show_default=True, help="Share of ink; digits have about 0.12.")
@click.option("--steps", default=30, show_default=True, help="Gradient steps.")
@click.option("--size", default=0.1, show_default=True, help="Length of the first step; a class embedding has 11.")
@click.option("--batch", default=4, show_default=True, help="Images a step.")
@click.option("--nfe", default=6, show_default=True, help="Network evaluations.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="conditioning.png", show_default=True)
def main(digit: int, target: float, steps: int, size: float, batch: int, nfe: int, seed: int, out: str) -> None:
    """Learn an embedding."""
    pipe, classifier = load_demo_pipeline(), load_demo_classifier()
    unet, schedule = pipe.unet.requires_grad_(False), NoiseSchedule.from_config(pipe.scheduler.config)
    vector = unet.class_embedding.weight[digit].clone().requires_grad_()
    unet.class_embedding = nn.Identity()  # what comes as a label is the embedding itself
    denoiser = Denoiser(lambda x, t: unet(x, t, class_labels=vector.expand(len(x), -1)).sample, schedule)

    generator = torch.Generator().manual_seed(seed)
    held_out, velocity, rows = torch.randn(10, 1, 28, 28, generator=generator), torch.zeros_like(vector), []
    for step in range(steps + 1):
        if step % 10 == 0 or step == steps:
            with torch.no_grad():
                rows.append(adjoint.sample(denoiser, held_out, "dpmpp_2m", nfe))
            right = int((classifier(rows[-1]).argmax(1) == digit).sum())
            click.echo(f"after {step:>3} steps: ink {ink(rows[-1]).mean():.3f}, {right:>2} of 10 read as {digit}")
        x_T = torch.randn(batch, 1, 28, 28, generator=generator)
        loss = (ink(adjoint.sample(denoiser, x_T, "dpmpp_2m", nfe)) - target).square().mean()
        (gradient,) = torch.autograd.grad(loss, vector)
        velocity = 0.8 * velocity + gradient / gradient.norm().clamp(min=1e-12)
        with torch.no_grad():
            vector -= size * (1 - step / (steps + 1)) * velocity
    save_image((torch.cat(rows) + 1) / 2, out, nrow=10, pad_value=0.5)


if __name__ == "__main__":
    main()
