"""Colour pictures controlled by what is known of them: gray values made colours, and holes filled, without any training for it.

    python examples/control_colours.py
    python examples/control_colours.py FOLDER --task inpaint --nfe 50

Score-based models are controlled while they draw: what is measured, noised to the level of the state, is put in place after
every step (`replacement`), for gray values in an orthonormal rotation of the channels; `impute` does so with predicted x0, and
the methods with a gradient move what is not measured, too. Without FOLDER the model is exact: pictures are Gaussian fields
whose channels belong together, so that their likeliest colours are known. With FOLDER, a saved pipeline of colour pictures,
such as `examples/train_colours.py` makes, the truth is drawn by the model. It prints the error of every method over the
spread of the pictures, and how well the measurement is explained, and draws all rows.
"""

import click
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, sample
from fewstep.samplers import guidance

SIZE, GRAY = 32, (0.299, 0.587, 0.114)
MIXED = torch.tensor(
    [[0.5, 0.15, 0.05], [0.45, -0.05, -0.1], [0.4, -0.15, 0.1]]
)  # channels, of three independent fields
TASKS = {
    "colour": lambda shape: guidance.colour(GRAY),
    "inpaint": lambda shape: guidance.mask(_holes(shape[-2:])),
}
METHODS = {"impute": {}, "dps": {"scale": 1.0, "iterations": 3}, "exact_covariance": {"iterations": 6}}


def _holes(size: tuple[int, int]) -> Tensor:
    known = torch.ones(1, *size)
    known[:, size[0] // 4 : size[0] // 2 + 1, size[1] // 4 : size[1] // 2 + 1] = 0
    return known


class Fields:
    """Pictures (3, 32, 32) that are Gaussian: three periodic fields of falling spectrum, mixed into channels."""

    def __init__(self) -> None:
        f = torch.fft.fftfreq(SIZE)
        self.power = SIZE**2 * (power := 1 / (1e-3 + f[:, None] ** 2 + f**2) ** 1.5) / power.sum()
        self.basis, root, _ = torch.linalg.svd(MIXED)
        self.channels = root.square()

    def filtered(self, x: Tensor, gain: Tensor) -> Tensor:
        """Gains (3, H, W) on the Fourier modes of the channels' own axes."""
        own = torch.fft.fft2(torch.einsum("kc,bkhw->bchw", self.basis.to(x), x))
        return torch.einsum("kc,bchw->bkhw", self.basis.to(x), torch.fft.ifft2(own * gain.to(x)).real)

    def denoiser(self) -> Denoiser:
        variance = self.channels[:, None, None] * self.power

        def network(x: Tensor, sigma: Tensor) -> Tensor:
            return self.filtered(x, variance / (variance + sigma.to(variance) ** 2))

        return Denoiser(network, NoiseSchedule.edm(0.005, 40.0), "sample")

    def draw(self, n: int) -> Tensor:
        noise = torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))
        return self.filtered(noise, (self.channels[:, None, None] * self.power).sqrt())


def from_folder(folder: str, images: int) -> tuple[Denoiser, Tensor]:
    """A saved pipeline as a denoiser, and pictures that it draws."""
    from diffusers import DiffusionPipeline

    denoiser = Denoiser.from_pipeline(DiffusionPipeline.from_pretrained(folder), batch_size=images)
    return denoiser, sample(denoiser, denoiser.initial_noise(torch.Generator().manual_seed(7)), "dpmpp_2m", 20)


def draw(rows: dict[str, Tensor], out: str) -> None:
    """A row of pictures for each of the truth, the measurement and the methods."""
    columns = len(next(iter(rows.values())))
    figure = Figure(figsize=(1.1 * columns + 1.4, 1.15 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for (name, images), line in zip(rows.items(), axes, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for ax, image in zip(line, images, strict=True):
            shown = image.expand(3, *image.shape[-2:]).movedim(0, -1)
            ax.imshow(((shown + 1) / 2).clamp(0, 1).numpy())
            ax.set(xticks=[], yticks=[])
    figure.savefig(out, dpi=120)


@click.command()
@click.argument("folder", required=False)
@click.option("--task", type=click.Choice(list(TASKS)), default="colour", show_default=True)
@click.option("--images", default=6, show_default=True)
@click.option("--nfe", default=20, show_default=True, help="Network evaluations.")
@click.option("--out", default="colours.png", show_default=True)
@torch.no_grad()
def main(folder: str | None, task: str, images: int, nfe: int, out: str) -> None:
    """Control colour pictures."""
    torch.set_num_threads(1)
    denoiser, clean = from_folder(folder, images) if folder else (Fields().denoiser(), Fields().draw(images))
    A, seeds = TASKS[task](clean.shape), range(images)
    y = A(clean)
    x_T = denoiser.schedule.initial_noise(clean.shape, torch.Generator().manual_seed(1))
    hook = guidance.replacement(y, A, denoiser, seeds, fresh=True)
    runs = {"nothing": {}, "replacement": {"hook": hook}} | {
        name: {
            "guided": getattr(guidance, name)(
                denoiser, y, A, **({} if name == "impute" else {"noise_std": 0.01}), **given
            )
        }
        for name, given in METHODS.items()
    }
    rows = {"truth": clean, "measured": y}
    for name, run in runs.items():
        x = sample(run.pop("guided", denoiser), x_T, "euler_ancestral", nfe, noise_seeds=seeds, **run)
        rows[name] = x
        error, misfit = (float((a - b).square().mean().sqrt() / b.std()) for a, b in ((x, clean), (A(x), y)))
        click.echo(f"{name:>17}  error {error:.3f}  misfit {misfit:.3f}")
    draw(rows, out)


if __name__ == "__main__":
    main()
