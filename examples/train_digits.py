"""Train the demo model of fewstep from scratch: a class-conditional diffusion model of MNIST digits.

    python examples/train_digits.py --out digits               # downloads MNIST; about an hour on two CPU cores
    python examples/train_digits.py --out digits --resume      # goes on from the last checkpoint
    python examples/train_digits.py --out digits --steps 0 --init digits    # only judges the network in `digits`
    python examples/train_digits.py --out dit --network dit --minutes 20    # a small transformer in place of the U-Net

The network learns the noise eps in x_t = alpha_t x0 + sigma_t eps by minimising |eps_hat(x_t, t, class) - eps|^2. One
class in ten is replaced by the null class 10, so that the same network also knows digits of no particular class:
guidance needs both.
`--out` receives a diffusers pipeline (`fewstep sample digits --classes 0,1,2`), a small classifier, and a sheet of samples, a
row for each class.
"""

import json
import math
import sys
import time
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiTTransformer2DModel, UNet2DModel
from diffusers.models.embeddings import LabelEmbedding
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file
from torch import Tensor
from torchvision.utils import save_image
from tqdm import tqdm

from fewstep.demo.digit_classifier import DigitClassifier
from fewstep.demo.pipeline import NULL_CLASS, DigitsPipeline
from fewstep.output.files import whole

UNET = dict(
    sample_size=28, in_channels=1, out_channels=1, num_class_embeds=NULL_CLASS + 1,
    block_out_channels=(32, 64, 64), layers_per_block=1, norm_num_groups=8, attention_head_dim=16,
    down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
)  # fmt: skip
# Tokens of 4x4 pixels through eight blocks under adaptive layer norms (Scalable Diffusion Models with Transformers; Peebles,
# Xie; 2022; arXiv:2212.09748). Its last label is the null class.
DIT = dict(
    sample_size=28, patch_size=4, in_channels=1, out_channels=1, num_layers=8, num_attention_heads=4,
    attention_head_dim=24, num_embeds_ada_norm=NULL_CLASS, norm_num_groups=1,
)  # fmt: skip
NETWORKS = {"unet": (UNet2DModel, UNET), "dit": (DiTTransformer2DModel, DIT)}
SCHEDULE = dict(
    num_train_timesteps=1000, beta_schedule="linear", beta_start=1e-4, beta_end=0.02, prediction_type="epsilon",
    clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=True,
)  # fmt: skip


Digits = dict[str, tuple[Tensor, Tensor]]


def load_digits(data: Path | None) -> Digits:
    """MNIST as {"train" | "test": (images (N, 1, 28, 28) in [-1, 1], labels (N,))}, from an .npz file or downloaded."""
    if data is not None:
        with np.load(data) as npz:
            arrays = {s: (npz[f"{s}_images"], npz[f"{s}_labels"]) for s in ("train", "test")}
    else:
        from torchvision.datasets import MNIST

        root = Path.home() / ".cache" / "fewstep"
        sets = {s: MNIST(root, train=s == "train", download=True) for s in ("train", "test")}
        arrays = {s: (mnist.data.numpy(), mnist.targets.numpy()) for s, mnist in sets.items()}
    return {
        s: (torch.from_numpy(x).float().div(127.5).sub(1).unsqueeze(1), torch.from_numpy(y).long())
        for s, (x, y) in arrays.items()
    }


def made(kind: str) -> torch.nn.Module:
    """A network of a kind with new weights. Classes are dropped by the training itself, not by the network."""
    network_class, sizes = NETWORKS[kind]
    network = network_class(**sizes)
    for part in network.modules():
        if isinstance(part, LabelEmbedding):
            part.dropout_prob = 0.0
    return network


def opened(folder: Path) -> torch.nn.Module:
    """The network in a folder, of whichever kind its config tells; the embedded one lies without a pipeline around it."""
    folder = folder / "unet" if (folder / "unet").is_dir() else folder
    kind = json.loads((folder / "config.json").read_text())["_class_name"]
    network_class = next(c for c, _ in NETWORKS.values() if c.__name__ == kind)
    return network_class.from_pretrained(folder).float().eval()


def export(ema: EMAModel, kind: str, out: Path) -> None:
    """Write the averaged network (float16) and the noise schedule into the folder `out`, as a pipeline."""
    network = made(kind)
    ema.copy_to(network.parameters())
    DigitsPipeline(network.half(), DDIMScheduler(**SCHEDULE)).save_pretrained(out)


class Training:
    """Network, its moving average, optimiser, random numbers and clock: all that a checkpoint holds."""

    def __init__(self, kind: str, device: torch.device, lr: float, ema_decay: float, bf16: bool, seed: int) -> None:
        self.kind = kind
        self.unet = unet = made(kind).to(device).train()
        self.device, self.lr, self.bf16 = device, lr, bf16
        self.ema = EMAModel(unet.parameters(), decay=ema_decay)
        self.optimizer = torch.optim.AdamW(unet.parameters(), lr=lr, weight_decay=0.0, fused=True)
        self.random = torch.Generator().manual_seed(seed)  # on the CPU: the same training on every device
        alphas_cumprod = DDIMScheduler(**SCHEDULE).alphas_cumprod.to(device)
        self.alpha, self.sigma = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
        # x0_hat = (x_t - sigma eps_hat) / alpha magnifies the errors of eps_hat where alpha is small. Unweighted, they
        # leave a trace of the initial noise in the image: speckle.
        self.weight = 1 / (alphas_cumprod + 0.01)
        self.weight /= self.weight.mean()
        self.n_done, self.seconds = 0, 0.0
        # In bfloat16 the input conv could not tell small noise on a pixel of -1; the other layers can do with it.
        first = unet.conv_in if kind == "unet" else unet.pos_embed
        first.forward = torch.autocast(device.type, enabled=False)(first.forward)

    def loss(self, images: Tensor, labels: Tensor, batch: int) -> Tensor:
        """Weighted |eps_hat - eps|^2 of one batch; its times are spread evenly over the schedule, which lowers the variance."""
        pick = torch.randint(len(images), (batch,), generator=self.random)
        drop = torch.rand(batch, generator=self.random) < 0.1
        tau = (torch.rand(1, generator=self.random) + torch.arange(batch) / batch) % 1
        t = (tau * len(self.alpha)).long().to(self.device)
        eps = torch.randn(batch, *images.shape[1:], generator=self.random).to(self.device)
        x0, y = images[pick].to(self.device), labels[pick].masked_fill(drop, NULL_CLASS).to(self.device)
        x_t = self.alpha[t].view(-1, 1, 1, 1) * x0 + self.sigma[t].view(-1, 1, 1, 1) * eps
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            output = self.unet(x_t, t, class_labels=y).sample
        return (self.weight[t] * (output.float() - eps).square().mean((1, 2, 3))).mean()

    def step(self, images: Tensor, labels: Tensor, batch: int, progress: float, warmup: int = 200) -> float:
        """One update at learning rate lr * min(1, n / warmup) * cos^2(pi/2 * progress); returns the loss."""
        start = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * min(1, (self.n_done + 1) / warmup) * math.cos(math.pi / 2 * min(1, progress)) ** 2
        loss = self.loss(images, labels, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.unet.parameters())
        value = loss.item()
        self.n_done, self.seconds = self.n_done + 1, self.seconds + time.monotonic() - start
        return value

    def save(self, path: Path) -> None:
        state = dict(
            unet=self.unet.state_dict(), ema=self.ema.state_dict(), optimizer=self.optimizer.state_dict(),
            random=self.random.get_state(), n_done=self.n_done, seconds=self.seconds,
        )  # fmt: skip
        with whole(path) as part:
            torch.save(state, part)

    def restore(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.unet.load_state_dict(state["unet"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.random.set_state(state["random"])
        self.n_done, self.seconds = state["n_done"], state["seconds"]


def train(
    training: Training, digits: tuple[Tensor, Tensor], out: Path, steps: int, minutes: float, batch: int, every: int
) -> None:
    """Train until `steps` updates or `minutes` are used up, whichever is first; a checkpoint every `every` updates."""
    terminal, mean = sys.stderr.isatty(), None
    bar = tqdm(total=steps, initial=training.n_done, unit="step", disable=not terminal)
    while (progress := max(training.n_done / max(steps, 1), training.seconds / 60 / minutes)) < 1:
        loss = training.step(*digits, batch, progress)
        mean = loss if mean is None else mean + 0.01 * (loss - mean)
        bar.update()
        bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
        if training.n_done % every == 0:
            training.save(out / "checkpoint.pt")
            export(training.ema, training.kind, out)
            if not terminal:
                spent = f"{training.seconds / 60:.1f} min, {progress:.0%}"
                print(f"step {training.n_done}: loss {mean:.4f}, {spent}", flush=True)
    bar.close()
    training.save(out / "checkpoint.pt")
    export(training.ema, training.kind, out)


def train_classifier(digits: Digits, device: torch.device, epochs: int = 3) -> DigitClassifier:
    """Cross entropy on shifted digits (a minute or two on a CPU); prints the share right on the test set."""
    images, labels = digits["train"]
    classifier = DigitClassifier().to(device)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
    n_batches = len(images) // 128
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * n_batches)
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for pick in tqdm(order[: n_batches * 128].split(128), desc="classifier", disable=not sys.stderr.isatty()):
            shift = tuple(torch.randint(-2, 3, (2,)).tolist())
            x, y = images[pick].roll(shift, (2, 3)).to(device), labels[pick].to(device)
            optimizer.zero_grad()
            F.cross_entropy(classifier(x), y, label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    classifier.eval().requires_grad_(False)
    print(f"classifier: {share_as_asked(classifier, *digits['test']):.2%} of the test images right", flush=True)
    return classifier


def share_as_asked(classifier: DigitClassifier, images: Tensor, labels: Tensor) -> float:
    """Share of images (N, 1, 28, 28) in [-1, 1] that the classifier takes for their label."""
    device = next(classifier.parameters()).device
    guesses = torch.cat([classifier(x.to(device)).argmax(1).cpu() for x in images.split(500)])
    return (guesses == labels).float().mean().item()


def judge(out: Path, classifier: DigitClassifier, device: torch.device, samples: int, nfe: int) -> None:
    """Draw samples with DDIM, print how many are what was asked for, and write a sheet of them (rows 0 to 9)."""
    pipe = DigitsPipeline(opened(out).to(device), DDIMScheduler(**SCHEDULE))
    pipe.set_progress_bar_config(disable=None)
    labels = torch.arange(samples) * 10 // samples  # sorted: a sheet's row is a stretch of equal labels
    for scale in (1.0, 2.0):
        random = torch.Generator().manual_seed(0)
        draw = dict(guidance_scale=scale, num_inference_steps=nfe, generator=random, output_type="pt")
        images = torch.cat([pipe(y, **draw).images.cpu() for y in labels.split(100)])
        share = share_as_asked(classifier, images * 2 - 1, labels)
        print(f"guidance {scale:g}: {share:.1%} of {samples} samples are as asked (DDIM, {nfe} steps)", flush=True)
        sheet = images.view(10, -1, *images.shape[1:])[:, :16].flatten(0, 1)
        with whole(out / f"samples-guidance-{scale:g}.png") as part:
            save_image(sheet, part, nrow=len(sheet) // 10, pad_value=0.5)


FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
POSITIVE = click.FloatRange(0, min_open=True)


@click.command()
@click.option("--out", type=FOLDER, default="digits", help="Folder to write to.")
@click.option("--data", type=FILE, help="Local .npz instead of a download.")
@click.option(
    "--network", type=click.Choice(list(NETWORKS)), default="unet", show_default=True, help="U-Net or transformer."
)
@click.option("--init", type=FOLDER, help="Start from this folder's network.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --out.")
@click.option("--steps", type=click.IntRange(0), default=8000, show_default=True, help="Updates in all.")
@click.option("--minutes", type=POSITIVE, default=math.inf, help="Time budget of the training.")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Images in an update.")
@click.option("--lr", type=POSITIVE, default=1e-3, show_default=True, help="Highest learning rate.")
@click.option("--ema", type=click.FloatRange(0, 1), default=0.999, show_default=True, help="Decay of the average.")
@click.option("--bf16/--fp32", default=None, help="Network arithmetic [bf16 on a GPU, fp32 on a CPU].")
@click.option("--device", default=None, help="Where to train [a GPU if there is one].")
@click.option("--seed", default=0, show_default=True, help="Of weights, noise and order of the data.")
@click.option("--every", type=click.IntRange(1), default=200, show_default=True, help="Updates between checkpoints.")
@click.option("--samples", type=click.IntRange(10), default=1000, show_default=True, help="Samples to judge (tens).")
@click.option("--nfe", type=click.IntRange(1), default=50, show_default=True, help="DDIM steps of these samples.")
def main(
    out, data, network, init, resume, steps, minutes, batch, lr, ema, bf16, device, seed, every, samples, nfe
) -> None:
    """Train a class-conditional diffusion model of MNIST digits and a classifier that judges it."""
    if samples % 10:
        raise click.BadParameter(f"{samples} is not a multiple of the ten classes", param_hint="--samples")
    if resume and not (out / "checkpoint.pt").exists():
        raise click.BadParameter(f"{out} has no checkpoint.pt; leave the option away", param_hint="--resume")
    torch.manual_seed(seed)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    digits = load_digits(data)
    out.mkdir(parents=True, exist_ok=True)
    bf16 = target.type == "cuda" if bf16 is None else bf16
    training = Training(network, target, lr, ema, bf16, seed)
    if init:
        training.unet.load_state_dict(opened(init).state_dict())
        training.ema = EMAModel(training.unet.parameters(), decay=ema)
    if resume:
        training.restore(out / "checkpoint.pt")
    train(training, digits["train"], out, steps, minutes, batch, every)
    classifier = train_classifier(digits, target)
    weights = {name: w.half().contiguous().cpu() for name, w in classifier.state_dict().items()}
    with whole(out / "classifier.safetensors") as part:
        save_file(weights, part)
    judge(out, classifier, target, samples, nfe)


if __name__ == "__main__":
    main()
