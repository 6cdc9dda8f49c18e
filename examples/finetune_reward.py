"""A network fine-tuned towards a reward, by gradients through the last few evaluations only.

    python examples/finetune_reward.py

The reward asks for italics: slant near a target, which no class of the model has. Only low-rank terms added to the weights are
trained (LoRA). `last="random"` ends the way back after a random number of evaluations, which is cheaper and biased, and
`accumulate=True` adds to .grad as it goes. It prints the slant, and how many digits the classifier reads as asked, on noise
that was not trained on, and draws such samples before and after: two rows each.
"""

import click
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from torchvision.utils import save_image

from fewstep import Denoiser, NoiseSchedule, adjoint, load_demo_pipeline
from fewstep.demo import load_demo_classifier


def slant(x: Tensor) -> Tensor:
    """Shear of every image's ink: 0 upright, positive leaning to the right."""
    ink = (x / 0.1).sigmoid()
    ink = ink / ink.sum((2, 3), keepdim=True)
    right, up = torch.arange(28.0).view(1, 1, 1, 28), -torch.arange(28.0).view(1, 1, 28, 1)
    right = right - (ink * right).sum((2, 3), keepdim=True)
    up = up - (ink * up).sum((2, 3), keepdim=True)
    return (ink * right * up).sum((1, 2, 3)) / (ink * up * up).sum((1, 2, 3))


class LowRank(nn.Module):
    """weight + a b, with a b = 0 at first."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(len(weight), rank))
        self.b = nn.Parameter(torch.randn(rank, weight[0].numel()) / weight[0].numel() ** 0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.a @ self.b).view_as(weight)


def low_rank(network: nn.Module, rank: int) -> list[nn.Parameter]:
    """Add low-rank terms to all linear and convolutional weights; the rest is frozen."""
    network.requires_grad_(False)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer in layers:
        register_parametrization(layer, "weight", LowRank(layer.weight, rank))
    return [p for p in network.parameters() if p.requires_grad]


@click.command()
@click.option("--target", default=0.5, show_default=True, help="Slant; digits have about 0.12.")
@click.option("--steps", default=30, show_default=True, help="Gradient steps.")
@click.option("--rank", default=4, show_default=True, help="Of what is added to each weight.")
@click.option("--lr", default=7e-4, show_default=True, help="Learning rate of Adam.")
@click.option("--last", default="random", show_default=True, help="Evaluations that gradients go through.")
@click.option("--nfe", default=6, show_default=True, help="Network evaluations.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="finetuned.png", show_default=True)
def main(target: float, steps: int, rank: int, lr: float, last: str, nfe: int, seed: int, out: str) -> None:
    """Fine-tune the demo network towards italics."""
    torch.manual_seed(seed)
    pipe, classifier, digits = load_demo_pipeline(), load_demo_classifier(), torch.arange(60) % 10
    schedule, weights = NoiseSchedule.from_config(pipe.scheduler.config), low_rank(pipe.unet, rank)
    denoiser = Denoiser(lambda x, t: pipe.unet(x, t, class_labels=digits[: len(x)]).sample, schedule)

    def judged(when: str) -> Tensor:
        with torch.no_grad():
            x0 = adjoint.sample(denoiser, held_out, "dpmpp_2m", nfe)
        lean, right = slant(x0), (classifier(x0).argmax(1) == digits).float().mean()
        click.echo(
            f"{when:>6}: reward {-(lean - target).square().mean():.3f}, slant {lean.mean():.3f}, {right:4.0%} as asked"
        )
        return x0[:20]

    held_out = torch.randn(len(digits), 1, 28, 28)
    pictures, optimiser = [judged("before")], torch.optim.Adam(weights, lr)
    kept = last if last == "random" else int(last)
    for _ in range(steps):
        x0 = adjoint.sample(denoiser, torch.randn(10, 1, 28, 28), "dpmpp_2m", nfe, last=kept, accumulate=True)
        optimiser.zero_grad()
        (slant(x0) - target).square().mean().backward()
        optimiser.step()
    pictures.append(judged("after"))
    save_image((torch.cat(pictures) + 1) / 2, out, nrow=10, pad_value=0.5)


if __name__ == "__main__":
    main()
