"""Inverse design with a simulator that has no gradient: digits of graphite with a wanted conductance.

    python examples/inverse_design.py

Ink conducts, paper does not. A small simulator puts a voltage between the top and the bottom of a digit and solves Kirchhoff's
equations for the current; it thresholds, walks graphs, and gives up where the digit is broken. Three searches that need its
numbers alone, at equal simulations of the end: the best of n noises, one of n candidates at every step (soft values), and
weighted particles, which draw from the density of digits times exp(reward) instead of its best. It prints how far from the
wanted conductance each ends, and how often the simulator gave up, and draws them.
"""

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fewstep import Denoiser, load_demo_pipeline, sample
from fewstep.samplers import guidance


def conductance(image: np.ndarray) -> float:
    """Current from the top row of ink to the bottom one at one volt; ArithmeticError for an open circuit."""
    ink = np.argwhere(image.reshape(14, 2, 14, 2).max((1, 3)) > 0)
    if len(ink) < 2:
        raise ArithmeticError("no ink")
    near = np.abs(ink[:, None] - ink).sum(-1) == 1
    top, bottom = ink[:, 0] == ink[:, 0].min(), ink[:, 0] == ink[:, 0].max()
    reached = top.copy()
    for _ in range(len(ink)):
        reached |= near[reached].any(0)
    if not (reached & bottom).any() or (top & bottom).any():
        raise ArithmeticError("an open circuit")
    laplacian = np.diag(near.sum(1)) - near.astype(float)
    free = reached & ~top & ~bottom
    volts = top.astype(float)
    volts[free] = np.linalg.solve(laplacian[np.ix_(free, free)] + 1e-9 * np.eye(free.sum()), near[free][:, top].sum(1))
    return float((laplacian @ volts)[top].sum())


def draw(rows: dict[str, Tensor], told: dict[str, list[str]], out: str) -> None:
    """A row of images for each search, with the conductance of each."""
    shown = max(len(images) for images in rows.values())
    figure = Figure((shown, 1.3 * len(rows)), layout="constrained")
    for (name, images), line in zip(rows.items(), figure.subplots(len(rows), shown, squeeze=False), strict=True):
        for ax, image, words in zip(line, images, told[name], strict=False):
            ax.imshow(image[0].numpy(), cmap="gray", vmin=-1, vmax=1)
            ax.set_title(words, fontsize=7)
        for ax in line:
            ax.set_axis_off()
        line[0].text(-6, 14, name, rotation=90, va="center", ha="center", fontsize=8)
    figure.savefig(out, dpi=120)


@click.command()
@click.option("--wanted", default=0.6, show_default=True, help="Conductance, in squares of ink.")
@click.option("--designs", default=8, show_default=True, help="Of each search.")
@click.option("--candidates", default=8, show_default=True, help="For each design.")
@click.option("--nfe", default=12, show_default=True, help="Network evaluations of a candidate.")
@click.option("--width", default=0.05, show_default=True, help="Deviation from the wanted that is accepted.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="designs.png", show_default=True)
def main(wanted: float, designs: int, candidates: int, nfe: int, width: float, seed: int, out: str) -> None:
    """Search for digits with a conductance, by a black box."""
    pipe, n = load_demo_pipeline(), designs * candidates

    def digits(each: int) -> Denoiser:
        labels = [k // each % 10 for k in range(designs * each)]
        return Denoiser.from_pipeline(pipe, class_labels=labels, guidance_scale=1.0)

    def reward(images: Tensor) -> list[float]:
        return [-((conductance(one[0]) - wanted) ** 2) / (2 * width**2) for one in images.numpy()]

    def measured(images: Tensor) -> np.ndarray:
        found = []
        for one in images.numpy():
            try:
                found.append(conductance(one[0]))
            except ArithmeticError:
                found.append(np.nan)
        return np.array(found)

    seeds = range(seed, seed + n)
    how = {"gradient": False, "particles": candidates, "stop": 0.0, "seeds": seed}
    black = digits(candidates)
    one = guidance.fkc(black, reward=reward, method="one", ess=1.0, **how)
    many = guidance.fkc(black, reward=reward, ess=0.5, **how)
    x_T = many.initial_noise((n, 1, 28, 28), seeds=seeds)
    few = digits(1)
    with torch.no_grad():
        plain = sample(few, x_T[:designs], "dpmpp_2m", nfe)
        best = guidance.best_of(few, x_T[:designs], reward, candidates, "dpmpp_2m", nfe, seeds=seed)
        rows = {"plain": plain, "best of n": best.x0}
        for name, target in (("one of n a step", one), ("weighted", many)):
            x0 = sample(target.denoiser, x_T, "dpmpp_2m_sde", nfe, noise_seeds=seeds, hook=target)
            rows[name] = target.unweighted(x0, 1)
    failed = {"plain": "-", "best of n": best.failed, "one of n a step": one.failed, "weighted": many.failed}
    told = {}
    for name, images in rows.items():
        found = measured(images)
        told[name] = [f"{g:.2f}" for g in found]
        off = np.nanmean(np.abs(found - wanted))
        click.echo(
            f"{name:16}: off by {off:.3f}, broken {int(np.isnan(found).sum())} of {len(found)}; gave up {failed[name]} times"
        )
    click.echo(f"weighted: {many.health()}")
    draw(rows, told, out)


if __name__ == "__main__":
    main()
