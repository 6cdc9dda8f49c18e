"""A public consistency model of terrain, heights of 128 x 128 cells by difficulty, drawn with the solvers of few-step models.

    python examples/terrain.py
    python examples/terrain.py --difficulty 10,50,90 --solvers consistency,renoise,ddim --nfe 2,4 --out terrain.png

The network is that of the package adaptive-terrain-diffusion (MIT licence, 45 MB; pip install adaptive-terrain-diffusion), an
ONNX graph D(x, sigma, difficulty) between sigma = 80 and 0.002. It was distilled to answer at sigma = 80 alone: one evaluation
is what the package itself draws out of the same noise, and every solver that asks at lower levels is given ground with noise on
it. Printed are how steep the terrain is (mean slope in degrees, cells of half a metre), a number for each difficulty, and how
far each solver ends from the answer of one evaluation; it is told by that, before a picture, that this model needs no solver.
"""

from __future__ import annotations

import math
import time
from typing import Any

import click
import numpy as np
import torch
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, sample

CELL = 0.5  # metres between heights, for slopes and shading: the network does not know


def whole_numbers(text: str, name: str, most: int) -> list[int]:
    """ "1,2" as numbers."""
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1 or max(found) > most:
        raise click.ClickException(f"{name} {text!r} must be whole numbers from 1 to {most} with commas between them")
    return found


def denoiser_of(generator: Any, difficulty: list[int]) -> Denoiser:
    """D(x, sigma) of states (B, 1, 128, 128), one difficulty a state."""
    labels = ((np.array(difficulty) - 1) / (generator.num_classes - 1)).astype(np.float32)

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        levels = np.broadcast_to(np.asarray(sigma, np.float32).reshape(-1), len(labels))
        told = {"noisy": x.numpy(), "sigma": np.ascontiguousarray(levels), "difficulty": labels}
        return torch.from_numpy(generator.session.run(["denoised"], told)[0])

    schedule = NoiseSchedule.edm(generator.sigma_min, generator.sigma_max, generator.sigma_data)
    return Denoiser(network, schedule, "sample")


def heights(generator: Any, x0: Tensor) -> np.ndarray:
    """Metres above the lowest cell, (B, 128, 128): h = a sinh(asinh(H / a) (x0 + 1) / 2)."""
    a, top = generator.asinh_scale, generator.height_range
    metres = a * np.sinh(((x0[:, 0].double().numpy() + 1) / 2).clip(0, 1) * math.asinh(top / a))
    return metres - metres.min(axis=(1, 2), keepdims=True)


def slope(metres: np.ndarray) -> np.ndarray:
    """Mean slope in degrees, (B,)."""
    dy, dx = np.gradient(metres, CELL, axis=(1, 2))
    return np.degrees(np.arctan(np.hypot(dx, dy))).mean((1, 2))


def draw(rows: dict[str, np.ndarray], difficulty: list[int], out: str) -> None:
    """Shaded from the north-west, a row a solver, a column a difficulty."""
    light, columns = LightSource(315, 45), len(difficulty)
    figure = Figure(figsize=(1.9 * columns + 1.2, 1.9 * len(rows)), layout="constrained")
    for (name, fields), line in zip(rows.items(), figure.subplots(len(rows), columns, squeeze=False), strict=True):
        line[0].set_ylabel(name)
        for axes, field in zip(line, fields, strict=True):
            axes.imshow(light.hillshade(field, vert_exag=1, dx=CELL, dy=CELL), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
    for axes, one in zip(figure.axes, difficulty, strict=False):
        axes.set_title(f"difficulty {one}")
    figure.savefig(out, dpi=110)


@click.command()
@click.option("--difficulty", default="20,60,100", show_default=True, help="A terrain each, 1 to 100.")
@click.option("--solvers", default="consistency,ddim", show_default=True)
@click.option("--nfe", default="2,3", show_default=True, help="Network evaluations; one evaluation is always drawn.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="terrain.png", show_default=True)
def main(difficulty: str, solvers: str, nfe: str, seed: int, out: str) -> None:
    """Draw terrain by several solvers and numbers of evaluations."""
    hard, counts = whole_numbers(difficulty, "--difficulty", 100), whole_numbers(nfe, "--nfe", 1000)
    try:
        from terrain_diffusion import TerrainGenerator
    except ImportError:
        click.echo(
            "The network is not here: pip install adaptive-terrain-diffusion (45 MB, with ONNX Runtime), and again."
        )
        return
    generator = TerrainGenerator(device="cpu")
    denoiser, side = denoiser_of(generator, hard), generator.native_size
    noise = np.random.default_rng(seed).standard_normal((len(hard), 1, side, side), dtype=np.float32)
    x_T = torch.from_numpy(noise) * generator.sigma_max

    one = sample(denoiser, x_T, "ddim", 1)
    rows = {"1 evaluation": heights(generator, one)}
    gap = np.abs(rows["1 evaluation"] - generator.generate(len(hard), difficulty=hard, seed=seed)).max()
    click.echo(f"1 evaluation: slopes {told(rows['1 evaluation'])}, {1000 * gap:.2g} mm from the package's own terrain")
    try:
        for solver in solvers.split(","):
            for n in [n for n in counts if n > 1]:
                began = time.perf_counter()
                x0 = sample(denoiser, x_T, solver, n, noise_seeds=range(seed, seed + len(hard)))
                seconds = (time.perf_counter() - began) / len(hard)
                rows[f"{solver}, {n}"] = heights(generator, x0)
                away = float((x0 - one).square().mean().sqrt() / one.std())
                click.echo(
                    f"{solver}, {n} evaluations: slopes {told(rows[f'{solver}, {n}'])}, {away:.2f} of the spread away from "
                    f"1 evaluation, {seconds:.1f} s each"
                )
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    draw(rows, hard, out)
    click.echo(f"{out}: {len(rows)} rows, a column for each of difficulty {difficulty}")


def told(metres: np.ndarray) -> str:
    """Slopes in words."""
    return " ".join(f"{degrees:.1f}" for degrees in slope(metres))


if __name__ == "__main__":
    main()
