"""A class-conditional U-Net learned by flow matching, an update at a time; all that goes on when it does lies in one file."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from colour_pictures import Pictures
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fewstep.demo.pipeline import ClassConditionalPipeline
from fewstep.output.seal import OPEN, SEAL, check_tensors, whole_tensors

TICKS = 1000  # the network is shown 1000 s
WARMUP, DECAY = 500, 2500  # updates: of the rise of the learning rate, and from when on it falls
# Weights averaged over the last tenth or so of all updates, however many these are: beta_n = (1 - 1/n)^(GAMMA + 1), and a rate
# that falls by the square root (Analyzing and Improving the Training Dynamics of Diffusion Models; Karras, Aittala, Lehtinen,
# Hellsten, Aila, Laine; 2024; arXiv:2312.02696). Neither needs to know when the training will end.
GAMMA = 6.94
STATE = "state.safetensors"


@dataclass(frozen=True)
class Settings:
    """What one training is: a folder of another is not gone on with."""

    widths: tuple[int, ...]
    layers: int
    batch: int
    lr: float
    drop: float
    seed: int
    side: int
    classes: int
    pictures: str


def network_of(settings: Settings) -> UNet2DModel:
    """New weights: a level for each width, at half the side of the one before, attention in the last; classes + 1 labels."""
    inner, levels = settings.widths, len(settings.widths)
    return UNet2DModel(
        sample_size=settings.side, in_channels=3, out_channels=3, num_class_embeds=settings.classes + 1,
        block_out_channels=inner, layers_per_block=settings.layers, norm_num_groups=8, attention_head_dim=32,
        down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1), resnet_time_scale_shift="scale_shift",
    ).to(memory_format=torch.channels_last)  # fmt: skip


def seeded(device: torch.device | str, *numbers: Any) -> torch.Generator:
    """Random numbers that are a function of these and of nothing else."""
    code = int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "big")
    return torch.Generator(device).manual_seed(code)


def pixels(images: Tensor) -> Tensor:
    """uint8 as x0 in [-1, 1]."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def levels_of(u: Tensor) -> Tensor:
    """Logit-normal times s of uniform u: logit(s) ~ N(0, 1), as (B, 1, 1, 1)."""
    return torch.special.ndtri(u.clamp(1e-5, 1 - 1e-5)).sigmoid().view(-1, 1, 1, 1)


class Training:
    """Network, average, optimiser, number of updates and seconds spent.

        x_t = (1 - s) x0 + s eps, |f(x_t, 1000 s, class) - (eps - x0)|^2 minimised; logit(s) ~ N(0, 1)

    What update n draws (pictures, flips, labels dropped, times, noises) is a function of the seed and n alone, so that the
    weights, two moments of each and n are all that a training goes on from.
    """

    def __init__(
        self, settings: Settings, pictures: Pictures, device: torch.device, bf16: bool = False, compiled: bool = False
    ) -> None:
        self.settings, self.device, self.bf16 = settings, device, bf16
        if settings.batch > len(pictures.images["train"]):
            raise ValueError(
                f"{settings.batch} pictures in an update are more than all {len(pictures.images['train'])}"
            )
        torch.manual_seed(settings.seed)
        self.network, self.average = network_of(settings).to(device), network_of(settings).to(device)
        self.average.eval().requires_grad_(False).load_state_dict(self.network.state_dict())
        self.forward = torch.compile(self.network) if compiled else self.network
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=settings.lr, weight_decay=0.0, fused=True)
        self.images = {split: x.to(device) for split, x in pictures.images.items()}
        self.labels = {split: y.to(device) for split, y in pictures.labels.items()}
        self.n_done, self.seconds, self.log = 0, 0.0, list[dict[str, float]]()
        self._order = (-1, torch.empty(0))

    def picked(self) -> Tensor:
        """The pictures of the next update: all of them in a new order in each round."""
        number = len(self.images["train"])
        turn, place = divmod(self.n_done, number // self.settings.batch)
        if self._order[0] != turn:
            self._order = turn, torch.randperm(number, generator=seeded("cpu", self.settings.seed, "order", turn))
        return self._order[1][place * self.settings.batch :][: self.settings.batch].to(self.device)

    def loss(self, network: nn.Module, x0: Tensor, y: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """|f - (eps - x0)|^2 at the times of u."""
        s = levels_of(u)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            output = network((1 - s) * x0 + s * eps, TICKS * s.flatten(), class_labels=y).sample
        return (output.float() - (eps - x0)).square().mean()

    def update(self) -> Tensor:
        """One update; its loss. Times are spread evenly over the batch, which lowers the variance."""
        batch, pick = self.settings.batch, self.picked()
        draw = seeded(self.device, self.settings.seed, "update", self.n_done)
        flip, drop, first = (torch.rand(n, generator=draw, device=self.device) for n in (batch, batch, 1))
        eps = torch.randn(batch, *self.images["train"].shape[1:], generator=draw, device=self.device)
        x0, y = pixels(self.images["train"][pick]), self.labels["train"][pick]
        x0 = torch.where((flip < 0.5).view(-1, 1, 1, 1), x0.flip(3), x0)
        y = y.masked_fill(drop < self.settings.drop, self.settings.classes)
        loss = self.loss(self.forward, x0, y, (first + torch.arange(batch, device=self.device) / batch) % 1, eps)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.n_done += 1
        self.optimizer.param_groups[0]["lr"] = self.rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for mean, weight in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(weight, 1 - (1 - 1 / self.n_done) ** (GAMMA + 1))
        return loss.detach()

    def rate(self) -> float:
        """lr min(1, n / WARMUP) / sqrt(max(1, n / DECAY))."""
        return self.settings.lr * min(1.0, self.n_done / WARMUP) / math.sqrt(max(1.0, self.n_done / DECAY))

    @torch.no_grad()
    def held_out(self, most: int = 512, batch: int = 128) -> float:
        """The loss of the averaged weights on untouched pictures, at the same times and noises whenever it is asked for."""
        number = min(most, len(self.images["test"]))
        pick = torch.arange(number) * len(self.images["test"]) // number
        draw, total = seeded("cpu", "held out"), 0.0
        u = (torch.randperm(number, generator=draw) + 0.5) / number
        for part, part_u in zip(pick.split(batch), u.split(batch), strict=True):
            x0, y = pixels(self.images["test"][part]), self.labels["test"][part]
            eps = torch.randn(len(part), *x0.shape[1:], generator=draw).to(self.device)
            total += float(self.loss(self.average, x0, y, part_u.to(self.device), eps)) * len(part)
        return total / number

    def pipeline(self) -> ClassConditionalPipeline:
        """The averaged network as a pipeline."""
        return ClassConditionalPipeline(
            self.average, FlowMatchEulerDiscreteScheduler(num_train_timesteps=TICKS, shift=1.0)
        )

    def export(self, folder: Path) -> None:
        """The pipeline with float16 weights."""
        half = network_of(self.settings)
        half.load_state_dict(self.average.state_dict())
        ClassConditionalPipeline(half.half(), self.pipeline().scheduler).save_pretrained(folder)

    def save(self, folder: Path) -> None:
        """All that a training goes on from, in one sealed file."""
        tensors = {f"network.{name}": w for name, w in self.network.state_dict().items()}
        tensors |= {f"average.{name}": w for name, w in self.average.state_dict().items()}
        for name, weight in self.network.named_parameters():
            for moment in ("exp_avg", "exp_avg_sq"):
                if weight in self.optimizer.state:
                    tensors[f"{moment}.{name}"] = self.optimizer.state[weight][moment]
        told = dict(settings=asdict(self.settings), n_done=self.n_done, seconds=self.seconds, log=self.log)
        with whole_tensors(folder / STATE) as part:
            save_file(
                {k: w.contiguous().cpu() for k, w in tensors.items()}, part, {"told": json.dumps(told), SEAL: OPEN}
            )

    def restore(self, folder: Path) -> None:
        """Go on from what `save` wrote. ValueError for a damaged file, or one of a training with other settings."""
        check_tensors(folder / STATE, required=True, remedy="Give another --out, or remove the file to begin anew")
        with safe_open(folder / STATE, "pt") as file:
            told = json.loads(file.metadata()["told"])
            for name, own in json.loads(json.dumps(asdict(self.settings))).items():
                if told["settings"][name] != own:
                    raise ValueError(
                        f"{folder} was begun with {name} = {told['settings'][name]}, not {own}: repeat its command, or give "
                        "another --out"
                    )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for kind, network in (("network", self.network), ("average", self.average)):
            network.load_state_dict({name: tensors[f"{kind}.{name}"] for name in network.state_dict()})
        state: dict[int, dict[str, Tensor]] = {}
        for k, (name, weight) in enumerate(self.network.named_parameters() if told["n_done"] else ()):
            state[k] = {"step": torch.tensor(float(told["n_done"]), device=self.device)}
            for moment in ("exp_avg", "exp_avg_sq"):  # laid out in memory as the weight is, which fused updates rely on
                state[k][moment] = torch.empty_like(weight, requires_grad=False).copy_(tensors[f"{moment}.{name}"])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.n_done, self.seconds, self.log = told["n_done"], told["seconds"], told["log"]
