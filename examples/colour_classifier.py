"""Train a classifier that judges drawn colour pictures: its features are what a Frechet distance of them is measured by.

    python examples/colour_classifier.py --data cifar10.zip --out colour_classifier.safetensors

DATA as in train_colours.py, whose network is judged; three rounds of 50,000 pictures take a few minutes of two cores. A
distance over these features is that of this classifier alone, and is never called FID.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import colour_pictures
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from fewstep.devices import chosen_device
from fewstep.output.seal import OPEN, SEAL, check_tensors, whole_tensors

WIDTHS = (32, 64, 128)


def block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """3 x 3, normalised, smooth: gradients to the picture are of use as guidance."""
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.GroupNorm(8, after), nn.SiLU())


class ColourClassifier(nn.Module):
    """uint8 (B, 3, H, W) -> (B, classes) logits; features (B, 128)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        a, b, c = WIDTHS
        self.body = nn.Sequential(block(3, a), block(a, b, 2), block(b, b), block(b, c, 2), block(c, c), block(c, c, 2))
        self.head = nn.Linear(c, classes)

    def features(self, images: Tensor) -> Tensor:
        """Means over the picture."""
        return self.body((images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def load(path: Path) -> ColourClassifier:
    """What `main` wrote, in eval mode. ValueError for a damaged file."""
    check_tensors(path, required=True, remedy="Train it again")
    with safe_open(path, "pt") as file:
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    network = ColourClassifier(len(state["head.bias"])).to(memory_format=torch.channels_last)
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def shifted(images: Tensor, draw: torch.Generator) -> Tensor:
    """Mirrored or not, and moved by up to four pixels, all of a batch alike: enough over many batches."""
    if torch.rand((), generator=draw) < 0.5:
        images = images.flip(3)
    down, right = (int(torch.randint(0, 9, (), generator=draw)) for _ in range(2))
    side = images.shape[-1]
    return F.pad(images.float(), (4,) * 4, mode="reflect")[..., down : down + side, right : right + side]


def train(pictures: colour_pictures.Pictures, device: torch.device, rounds: int, batch: int = 128) -> ColourClassifier:
    """By AdamW, at a rate that rises and falls once."""
    batch = min(batch, len(pictures.images["train"]))
    torch.manual_seed(0)
    draw, images, labels = torch.Generator().manual_seed(0), pictures.images["train"], pictures.labels["train"]
    network = ColourClassifier(len(pictures.names)).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    updates = rounds * (len(images) // batch)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, updates)
    with tqdm(total=updates, unit="update", disable=not sys.stderr.isatty()) as bar:
        for _ in range(rounds):
            for pick in torch.randperm(len(images), generator=draw)[: updates // rounds * batch].split(batch):
                x, y = shifted(images[pick], draw).to(device), labels[pick].to(device)
                F.cross_entropy(network(x), y, label_smoothing=0.05).backward()
                optimizer.step()
                optimizer.zero_grad()
                rate.step()
                bar.update()
    return network.eval().requires_grad_(False)


@torch.no_grad()
def share_right(network: ColourClassifier, images: Tensor, labels: Tensor) -> float:
    """Of uint8 images, how many it takes for what they are."""
    device = next(network.parameters()).device
    found = torch.cat([network(x.to(device)).argmax(1).cpu() for x in images.split(500)])
    return float((found == labels).float().mean())


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Zip, folder or .npz of pictures.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default="colour_classifier.safetensors")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Through all pictures.")
@click.option("--device", help="Where to train  [a GPU if there is one].")
def main(data: Path, out: Path, rounds: int, device: str | None) -> None:
    """Train a small classifier of colour pictures, whose features judge drawn ones."""
    try:
        pictures = colour_pictures.load(data)
        network = train(pictures, chosen_device(device), rounds)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"{share_right(network, pictures.images['test'], pictures.labels['test']):.1%} of the test pictures right"
    )
    tensors = {name: w.half() for name, w in network.state_dict().items()}
    with whole_tensors(out) as part:
        save_file({name: w.contiguous().cpu() for name, w in tensors.items()}, part, {SEAL: OPEN})


if __name__ == "__main__":
    main()
