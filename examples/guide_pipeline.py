"""Guidance of a text-to-image pipeline that the pipeline itself does not have: APG, CFG++, and inpainting through its VAE.

    python examples/guide_pipeline.py MODEL --prompt "a red bicycle" --method apg --scale 7.5
    python examples/guide_pipeline.py MODEL --prompt "a red bicycle" --image photo.png

MODEL is a folder or hub id of a pipeline with prompts and a VAE, such as StableDiffusionPipeline. With --image its middle is
drawn anew: what the VAE makes of predicted x0 shall agree with the rest, by gradients of the VAE and none of the network,
and the length of a step comes from norms. Prints how far the known pixels are off, and draws with and without guidance.
"""

from pathlib import Path

import click
import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from fewstep import Denoiser, sample
from fewstep.samplers import guidance

SCALES = {"cfg": 7.5, "apg": 7.5, "cfg_pp": 0.6}


def known_part(path: Path, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The picture (1, 3, H, W) in [-1, 1], and a mask that hides its middle."""
    pixels = np.array(Image.open(path).convert("RGB").resize((width, height)))
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1.0
    mask = torch.ones(1, 1, height, width)
    mask[..., height // 4 : -height // 4, width // 4 : -width // 4] = 0.0
    return picture, mask


@click.command()
@click.argument("model")
@click.option("--prompt", default="", help="What to draw.")
@click.option("--negative", default="", help="What the other call is given.")
@click.option("--method", type=click.Choice(list(SCALES)), default="apg", show_default=True)
@click.option("--scale", default=None, type=float, help="Of the method; 7.5, or 0.6 for cfg_pp.")
@click.option("--image", default=None, type=click.Path(exists=True, path_type=Path), help="Draw its middle anew.")
@click.option("--solver", default="dpmpp_2m", show_default=True)
@click.option("--nfe", default=20, show_default=True, help="Steps; each calls the network twice.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="guided.png", show_default=True)
def main(
    model: str, prompt: str, negative: str, method: str, scale: float | None, image: Path | None, solver: str, nfe: int,
    seed: int, out: str,
) -> None:  # fmt: skip
    """Draw with guidance around a pipeline."""
    pipe = DiffusionPipeline.from_pretrained(model)
    vae = pipe.vae.requires_grad_(False)
    with_prompt, without = (
        Denoiser.from_pipeline(pipe, prompt=text, guidance_scale=1.0, output_type="pt") for text in (prompt, negative)
    )
    guided = getattr(guidance, method)(with_prompt, without, SCALES[method] if scale is None else scale)

    def pixels(z: Tensor) -> Tensor:
        """What the VAE makes of latents, (B, 3, H, W) in about [-1, 1]."""
        return vae.decode((z / vae.config.scaling_factor).to(vae.dtype)).sample.float()

    methods = {"unguided": with_prompt, method: guided}
    x_T = with_prompt.initial_noise(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        height, width = pixels(x_T[:1]).shape[-2:]
    if image is not None:
        picture, mask = known_part(image, height, width)
        A = guidance.Operator(lambda z: mask * pixels(z), linear=False, name="known pixels of the decoded latents")
        methods["inpainting"] = guidance.dreamguider(guided, mask * picture, A)
    rows = []
    for name, denoiser in methods.items():
        with torch.no_grad():
            z = sample(denoiser, x_T, solver, nfe, t_start=with_prompt.t_start)
            drawn = pixels(z)
        rows.append(drawn[0].clamp(-1, 1))
        apart = ""
        if image is not None:
            miss = ((mask * (drawn - picture)).square().sum() / (3 * mask.sum()) / len(drawn)).sqrt()
            apart = f", known pixels off by {float(miss):.4f}"
        click.echo(f"{name:>10}: {nfe} steps of {solver}{apart}")
    strip = torch.cat(rows, -1).add(1).mul(127.5).round().byte().permute(1, 2, 0)
    Image.fromarray(strip.numpy()).save(out)


if __name__ == "__main__":
    main()
