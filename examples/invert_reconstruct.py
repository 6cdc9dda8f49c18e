"""Images inverted to noise, drawn again from it, and edited by drawing them as another digit.

    python examples/invert_reconstruct.py

The images are the model's own, by another solver and many evaluations. DDIM backwards evaluates the network at the wrong end
of each step; its implicit steps, iterated, and solvers with an exact inverse do not. It prints the error of each
reconstruction (pixels in [-1, 1]): from the noise alone, and from the pair of states where the solver has one. The picture's
rows: the images, their latents by bdia, the reconstructions by DDIM and by bdia, and the edits, the latents drawn as the next
digit.
"""

import click
import torch
from torch import Tensor
from torchvision.utils import save_image

from fewstep import Denoiser, NoiseSchedule, adjoint, load_demo_pipeline, sample

WAYS = {
    "ddim": ("ddim", {"iterations": 1}),
    "ddim, iterated": ("ddim", {"iterations": 12}),
    "alf": ("alf", {}),
    "bdia": ("bdia", {}),
}


def error(a: Tensor, b: Tensor) -> str:
    return f"{(a - b).square().mean().sqrt():.1e}"


@click.command()
@click.option("--images", default=10, show_default=True, help="How many; image k is the digit k.")
@click.option("--nfe", default=20, show_default=True, help="Network evaluations of each way.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="inverted.png", show_default=True)
@torch.no_grad()
def main(images: int, nfe: int, seed: int, out: str) -> None:
    """Invert, reconstruct, edit."""
    pipe = load_demo_pipeline()
    unet, schedule = pipe.unet, NoiseSchedule.from_config(pipe.scheduler.config)
    digits = torch.arange(images) % 10
    denoiser = Denoiser(lambda x, t: unet(x, t, class_labels=digits).sample, schedule)
    other = Denoiser(lambda x, t: unet(x, t, class_labels=(digits + 1) % 10).sample, schedule)

    x_T = torch.randn(images, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    x0 = sample(denoiser, x_T, "dpmpp_2m", 3 * nfe)
    drawn = []
    for name, (solver, options) in WAYS.items():
        found = adjoint.invert(denoiser, x0, solver, nfe, return_state=True, **options)
        drawn.append(sample(denoiser, found.x_T, solver, nfe))
        again = error(found.replay(denoiser), x0)
        click.echo(f"{name:>14}: error {error(drawn[-1], x0)} from the noise, {again} from the state")
    latents = (found.x_T / 3).clamp(-1, 1)
    rows = [x0, latents, drawn[0], found.replay(denoiser), sample(other, found.x_T, solver, nfe)]
    save_image((torch.cat(rows) + 1) / 2, out, nrow=images, pad_value=0.5)


if __name__ == "__main__":
    main()
