"""The Inception network of FID, "2015-12-05": torchvision's with that graph's pools, its taps, and a fast way through.

Against torchvision's `Inception3` there are 1008 classes, no auxiliary head and no input transform; the average pools of
Mixed_5b..5d, 6b..6e and 7b do not count the padding; Mixed_7c pools by the maximum. The network is rewritten once, with
coefficients in float64, into one that gives the same numbers with less work:

    batch norm     g (W x - m) / sqrt(v + eps) + b  =  W' x + b'     inside the convolution
    siblings       the 1x1 convolutions that read one input          one convolution
    average pool   P (W x + b)  =  W P x + b                         its weights sum to 1: 1x1 first, fewer channels to pool
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from os import PathLike
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewstep.checks import unknown
from fewstep.eval.extractors.base import Extractor, weights_hash
from fewstep.eval.extractors.extractor_entry import register_extractor
from fewstep.eval.extractors.inception_weights import load_weights
from fewstep.eval.extractors.layout import BLOCKS, STAGES, Block
from fewstep.eval.extractors.resize import PROTOCOLS
from fewstep.lazy import optional

MAIN = ("64", "192", "768", "2048")  # layers of which distances are taken
_SFID = 7  # channels of Mixed_6d that sFID reads


@register_extractor("inception")
class InceptionV3(Extractor):
    """The features of FID, sFID, KID and IS: uint8 (B, 3, H, W) of any size -> float32 (B, 2048), or named layers.

    Layers: "64", "192", "768" (means over pixels), "2048" (the pool of FID), "logits_unbiased" (2048 W^T, for IS), "logits",
    "sfid" (the first 7 channels of Mixed_6d's branch1x1 in the order y, x, channel: 17 * 17 * 7 = 2023).
    Features are float32 to rounding whatever the precision settings of the program and the size of the batch.

    Args:
        weights: file of the 2015-12-05 weights, or a state dict under torchvision's names; None searches, see
            `inception_weights.load_weights`. Values of others than the published files, which are known by their sha256, are
            called FD-inception and told with the hash of the weights.
        protocol: "tf" (FID of most papers), "pytorch-fid" or "clean"; see `resize`.
        fast: compute in bfloat16; features move by about 1e-2, so `precision` says it and results record it.
        compile: pass the network through torch.compile: the same numbers, after a wait of half a minute at the first batch;
            it gains little on a CPU.
        device: where it runs; None is the CPU.
        download: fetch the weights (91 MB) where they are not found.
        layer: "64", "192", "768" or "2048", of which Frechet distances, KID, precision and recall are; of others than 2048 they
            are named after it, FD-inception-64.

    Raises:
        ValueError, FileNotFoundError: an unknown protocol; weights that are absent, damaged or another network's.

    Reference:
        Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture for Computer Vision", 2016,
        arXiv:1512.00567; Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs Trained by a Two Time-Scale Update Rule
        Converge to a Local Nash Equilibrium", 2017, arXiv:1706.08500.
    """

    name = "inception"
    layers = {"64": 64, "192": 192, "768": 768, "2048": 2048, "logits_unbiased": 1008, "logits": 1008, "sfid": 2023}
    parts = {"main": "2048", "logits": "logits_unbiased", "spatial": "sfid"}

    def __init__(
        self,
        weights: str | PathLike[str] | Mapping[str, Tensor] | None = None,
        protocol: str = "tf",
        fast: bool = False,
        compile: bool = False,
        device: str | torch.device | None = None,
        download: bool = False,
        *,
        layer: str | int | None = None,
    ) -> None:
        super().__init__()
        main = "2048" if layer is None else str(layer)
        if main not in MAIN:
            raise unknown("layer of inception", main, MAIN)
        self.parts = {**self.parts, "main": main}
        if protocol not in PROTOCOLS:
            raise unknown("protocol", protocol, PROTOCOLS)
        state, self.published = load_weights(weights, _plain().state_dict(), download)
        self.protocol, self.hash = protocol, weights_hash(state)
        self.precision = "bf16" if fast else "fp32"
        self.network = Network(state, torch.bfloat16 if fast else torch.float32).to(device or "cpu")
        self.compiled = torch.compile(self.network, dynamic=False, options={"freezing": True}) if compile else None

    @property
    def at_once(self) -> int | None:  # type: ignore[override]
        """On a CPU few images at once: what a layer leaves is then still in the cache, and its memory is used again."""
        if self.device.type == "cpu":
            return 6
        return 64 if self.compiled else None

    def prepare(self, images: Tensor) -> Tensor:
        return PROTOCOLS[self.protocol](images)

    def taps(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        if self.compiled is None:
            return self.network(x, frozenset(layers))
        missing = (self.at_once or 0) - len(x)  # code is compiled for one size of the batch
        found = self.compiled(F.pad(x, (0,) * 7 + (missing,)), frozenset(layers))
        return {layer: features[: len(x)] for layer, features in found.items()}


class Network(nn.Module):
    """Prepared images (B, 3, 299, 299) -> the layers that are wanted; nothing is computed after the last of them.

    Args:
        state: weights under torchvision's names.
        dtype: of the convolutions; means over pixels and the last layer are float32 at least.
    """

    def __init__(self, state: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        plain = _plain()
        plain.load_state_dict(state, strict=False, assign=True)  # the counters of batch norm are left out
        self.stages = nn.ModuleDict(
            {tap: nn.Sequential(*(_rewritten(plain, name) for name in names)) for tap, names in STAGES.items()}
        )
        self.to(dtype).to(memory_format=torch.channels_last)
        self.fc = plain.fc.to(torch.promote_types(dtype, torch.float32))
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, wanted: Set[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        x = x.to(next(self.stages.parameters()).dtype, memory_format=torch.channels_last)
        for tap, stage in self.stages.items():
            x = stage(x)
            if tap == "sfid" in wanted:
                found[tap] = x[:, :_SFID].permute(0, 2, 3, 1).flatten(1)
            elif tap == "2048" or tap in wanted:
                found[tap] = x.to(self.fc.weight.dtype).mean((2, 3))
            if found.keys() >= wanted:
                return found
        found["logits_unbiased"] = found["2048"] @ self.fc.weight.T
        found["logits"] = found["logits_unbiased"] + self.fc.bias
        return found


class Convolution(nn.Conv2d):
    """Convolution with the batch norm after it inside, and ReLU; several of them that read one input are one.

        W' = g / sqrt(v + eps) W,   b' = b - g / sqrt(v + eps) m

    Args:
        parts: torchvision's BasicConv2d's of one geometry.
        linear: leave the last so many channels without ReLU.
    """

    def __init__(self, *parts: Any, linear: int = 0) -> None:
        conv = parts[0].conv
        width = sum(part.conv.out_channels for part in parts)
        super().__init__(conv.in_channels, width, conv.kernel_size, conv.stride, conv.padding, device="meta")
        scales = [p.bn.weight.double() / (p.bn.running_var.double() + p.bn.eps).sqrt() for p in parts]
        kernels = [s[:, None, None, None] * p.conv.weight.double() for s, p in zip(scales, parts, strict=True)]
        biases = [p.bn.bias.double() - s * p.bn.running_mean.double() for s, p in zip(scales, parts, strict=True)]
        self.weight, self.bias = nn.Parameter(torch.cat(kernels)), nn.Parameter(torch.cat(biases))
        self.rectified = self.out_channels - linear

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        y[:, : self.rectified].relu_()
        return y


class Branches(nn.Module):
    """A block: the 1x1 heads of its chains in one convolution, the rest of each chain, all side by side."""

    def __init__(self, block: nn.Module, plan: Block) -> None:
        super().__init__()
        self.pool = plan.pool
        first = [getattr(block, str(chain[0])) for chain in plan.chains]
        # The maximum does not commute with a convolution: that chain reads the pooled input and keeps its head.
        merged = [part.conv.kernel_size == (1, 1) for part in first]
        if self.pool == "maximum":
            merged[-1] = False
        heads = [part for part, inside in zip(first, merged, strict=True) if inside]
        self.heads = Convolution(*heads, linear=heads[-1].conv.out_channels if self.pool == "average" else 0)
        self.widths = [part.conv.out_channels for part in heads]
        self.merged = merged
        self.tails = nn.ModuleList(
            nn.Sequential(*(_link(block, link) for link in chain[inside:]))
            for chain, inside in zip(plan.chains, merged, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        heads = iter(self.heads(x).split(self.widths, dim=1))
        starts = [next(heads) if inside else x for inside in self.merged]
        if self.pool == "average":
            starts[-1] = F.avg_pool2d(starts[-1], 3, stride=1, padding=1, count_include_pad=False).relu_()
        elif self.pool == "maximum":
            starts[-1] = F.max_pool2d(x, 3, stride=1, padding=1)
        out = [tail(start) for tail, start in zip(self.tails, starts, strict=True)]
        if self.pool == "reduce":
            out.append(F.max_pool2d(x, 3, stride=2))
        return torch.cat(out, dim=1)


class Beside(nn.Module):
    """Two convolutions of one input, side by side."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=1)


def _plain() -> Any:
    """torchvision's network with 1008 classes: names, shapes and geometry without values."""
    with optional("the Inception extractor"):  # slow to import: not for those who only look which extractors there are
        from torchvision.models import Inception3

    with torch.device("meta"):
        return Inception3(num_classes=1008, aux_logits=False, init_weights=False)


def _rewritten(plain: Any, name: str) -> nn.Module:
    module: nn.Module = getattr(plain, name)
    if name in BLOCKS:
        return Branches(module, BLOCKS[name])
    return Convolution(module) if hasattr(module, "conv") else module


def _link(block: nn.Module, link: str | tuple[str, str]) -> nn.Module:
    if isinstance(link, tuple):
        return Beside(*(Convolution(getattr(block, name)) for name in link))
    return Convolution(getattr(block, link))
