"""What a call of `Denoiser.from_pipeline` costs beside the network: `python tests/benchmarks/from_pipeline.py`.

Time of a denoiser call less the time inside the network's forward, on one thread, for a tiny and a larger UNet with
classifier-free guidance. The turn of the pipeline's own loop (doubling the batch, guidance arithmetic) is part of it.
"""

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
from parts import conditional_unet  # noqa: E402
from pipelines import PIPELINES  # noqa: E402

from fewstep import Denoiser  # noqa: E402

CALLS = 40


class Stopwatch:
    """Adds up the seconds spent in a module's forward."""

    def __init__(self, module):
        self.total = 0.0
        module.register_forward_pre_hook(self.begin)
        module.register_forward_hook(self.end)

    def begin(self, *_):
        self.began = time.perf_counter()

    def end(self, *_):
        self.total += time.perf_counter() - self.began


def beside(call, watch):
    """(seconds of a call in the network, beside it)."""
    inside, began = watch.total, time.perf_counter()
    call()
    seconds = time.perf_counter() - began
    inside = watch.total - inside
    return inside, seconds - inside


def measure(name, unet):
    pipe, call = PIPELINES["sd"].make()
    if unet is not None:
        pipe.unet = unet.eval()
    size = pipe.unet.config.sample_size
    call = {**call, "height": 2 * size, "width": 2 * size, "output_type": "latent"}
    watch = Stopwatch(pipe.unet)
    denoiser = Denoiser.from_pipeline(pipe, **call)
    x = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(0))
    denoiser(x, 0.5)
    ours = [beside(lambda: denoiser(x, 0.5), watch) for _ in range(CALLS)]
    network, extra = (statistics.median(column) for column in zip(*ours, strict=True))
    print(f"{name:>7}: network {1e3 * network:8.2f} ms, beside it {1e6 * extra:6.0f} us ({extra / network:.2%})")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        measure("tiny", None)
        torch.manual_seed(0)
        wide = {"block_out_channels": (64, 128), "norm_num_groups": 32, "attention_head_dim": 8}
        measure("larger", conditional_unet(sample_size=32, **wide))
