"""Random weights of the FID network, scaled so that features neither vanish nor saturate."""

from functools import cache

import torch
from torch import Tensor


@cache
def random_state(seed: int = 0) -> dict[str, Tensor]:
    """A state dict under torchvision's names, without the counters of batch norm."""
    from torchvision.models import Inception3  # slow to import

    with torch.device("meta"):
        shapes = Inception3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    generator = torch.Generator().manual_seed(seed)

    def values(name: str, shape: torch.Size) -> Tensor:
        if name.endswith("conv.weight"):  # keeps the variance of what passes a ReLU
            return torch.randn(shape, generator=generator) * (2 / shape[1:].numel()) ** 0.5
        if name.endswith(("bn.weight", "running_var")):
            return 0.75 + 0.5 * torch.rand(shape, generator=generator)
        return torch.randn(shape, generator=generator) * (0.03 if name == "fc.weight" else 0.1)

    return {name: values(name, w.shape) for name, w in shapes.items() if not name.endswith("num_batches_tracked")}


def smooth_images(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """uint8 (count, 3, height, width) with structure at many scales, so that features differ from image to image."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, 3, height, width)
    for size in (2, 4, 8, 16):
        coarse = torch.randn(count, 3, size, size, generator=generator)
        images += torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") / size**0.5
    return (127.5 + 60 * images).round().clamp(0, 255).to(torch.uint8)
