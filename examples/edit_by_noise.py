"""Digits completed from a share of their pixels: the noise is sought from which a sampler leads to them.

    python examples/edit_by_noise.py

The truth are samples of the same model from other noise, so that nothing has to be read. The noise is moved, by gradients
through all evaluations, until the known pixels of its sample fit; the others follow, because whatever the noise, the sample
is a digit. Only the noise is changed: no guidance, no blending of images. L-BFGS and steps with momentum have the same number
of gradients. It prints the peak signal-to-noise ratio in dB of the known pixels and of the others, and draws all.
"""

import click
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, load_demo_pipeline, sample
from fewstep.demo.pipeline import NULL_CLASS
from fewstep.samplers import guidance


def psnr(x: Tensor, truth: Tensor, where: Tensor) -> float:
    """Of all images together, for pixels in [-1, 1]."""
    return float(-10 * ((x.clamp(-1, 1) - truth)[where].square().mean() / 4).log10())


def draw(rows: dict[str, Tensor], out: str) -> None:
    width = len(next(iter(rows.values())))
    figure = Figure((0.9 * width + 0.4, 0.95 * len(rows)), layout="constrained")
    for line, (name, images) in zip(figure.subplots(len(rows), width, squeeze=False), rows.items(), strict=True):
        for image, ax in zip(images, line, strict=True):
            ax.imshow(image[0].numpy(), cmap="gray", vmin=-1, vmax=1)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=8)
    figure.savefig(out, dpi=120)


@click.command()
@click.option("--images", default=6, show_default=True)
@click.option("--known", default=0.3, show_default=True, help="Share of the pixels that are given.")
@click.option("--iterations", default=40, show_default=True, help="Evaluations of the gradient.")
@click.option("--nfe", default=6, show_default=True, help="Network evaluations of a sample.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="completed.png", show_default=True)
def main(images: int, known: float, iterations: int, nfe: int, seed: int, out: str) -> None:
    """Complete digits from some of their pixels."""
    pipe = load_demo_pipeline()
    unet, schedule = pipe.unet.requires_grad_(False), NoiseSchedule.from_config(pipe.scheduler.config)

    def asked(labels: Tensor) -> Denoiser:
        return Denoiser(lambda x, t: unet(x, t, class_labels=labels).sample, schedule)

    generator = torch.Generator().manual_seed(seed)
    hidden, x_T = torch.randn(2, images, 1, 28, 28, generator=generator)
    given = torch.rand(images, 1, 28, 28, generator=generator) < known
    with torch.no_grad():
        truth = sample(asked(torch.arange(images) % 10), hidden, "dpmpp_2m", 20).clamp(-1, 1)
    anything = asked(torch.full((images,), NULL_CLASS))

    def misfit(x0: Tensor) -> Tensor:
        return (given * (x0 - truth)).square().sum((1, 2, 3))

    with torch.no_grad():
        rows = {"before": sample(anything, x_T, "dpmpp_2m", nfe)}
    run = {"solver": "dpmpp_2m", "nfe": nfe, "iterations": iterations}
    rows["d_flow"] = guidance.d_flow(anything, x_T, misfit, **run).x0
    rows["doodl"] = guidance.doodl(anything, x_T, misfit, **run, clip=0.05, momentum=0.7).x0
    for name, x0 in rows.items():
        click.echo(f"{name:>6}: known pixels {psnr(x0, truth, given):.1f} dB, others {psnr(x0, truth, ~given):.1f} dB")
    draw({"truth": truth, "known": truth.where(given, 0), **rows}, out)


if __name__ == "__main__":
    main()
