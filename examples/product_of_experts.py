"""What two experts agree on, sampled as what it is: weighted particles against averaged scores.

    python examples/product_of_experts.py

The network knows digits by class. sqrt(p(x | first) p(x | second)) holds the images that neither class finds strange. Its
score under noise is not the mean of the two scores under noise, so a sampler that follows the mean draws from something
else. The same sampler with particles that are weighted and resampled on the way (Feynman-Kac correctors) has the product
in the limit of many particles; a few dozen show what resampling does: images that both find likely are kept, as copies. Plain
guidance towards both classes at once, u + (c1 - u) + (c2 - u), is drawn beside them. It prints the probabilities that a
classifier gives to the two classes, and what is left for all others, and draws all sets, those first that both classes like
best.
"""

import click
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, load_demo_pipeline, sample
from fewstep.demo import load_demo_classifier
from fewstep.demo.pipeline import NULL_CLASS
from fewstep.samplers import guidance


def expert(unet: torch.nn.Module, schedule: NoiseSchedule, label: int) -> Denoiser:
    """The network that draws one class."""
    return Denoiser(lambda x, t: unet(x, t, class_labels=torch.full((len(x),), label)).sample, schedule)


def draw(rows: dict[str, tuple[Tensor, Tensor]], shown: int, out: str) -> None:
    """A row of images for each set, those that both classes like best first, with both probabilities."""
    figure = Figure((shown, 1.3 * len(rows)), layout="constrained")
    for (name, (images, p)), line in zip(rows.items(), figure.subplots(len(rows), shown, squeeze=False), strict=True):
        for ax, k in zip(line, p.amin(1).argsort(descending=True)[:shown], strict=False):
            ax.imshow(images[k, 0].numpy(), cmap="gray", vmin=-1, vmax=1)
            ax.set_title(f"{p[k, 0]:.2f}  {p[k, 1]:.2f}", fontsize=7)
        for ax in line:
            ax.set_axis_off()
        line[0].text(-6, 14, name, rotation=90, va="center", ha="center", fontsize=8)
    figure.savefig(out, dpi=120)


@click.command()
@click.option("--digits", nargs=2, default=(4, 9), show_default=True, help="The two experts.")
@click.option("--particles", default=48, show_default=True)
@click.option("--nfe", default=40, show_default=True, help="Network evaluations of each expert.")
@click.option("--ess", default=0.5, show_default=True, help="Resample below this share of effective particles.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="product.png", show_default=True)
def main(digits: tuple[int, int], particles: int, nfe: int, ess: float, seed: int, out: str) -> None:
    """Sample what two classes agree on, with and without weights."""
    pipe, classifier = load_demo_pipeline(), load_demo_classifier()
    unet, schedule = pipe.unet.requires_grad_(False), NoiseSchedule.from_config(pipe.scheduler.config)
    target = guidance.fkc([expert(unet, schedule, label) for label in digits], [0.5, 0.5], ess=ess, seeds=seed)
    seeds = range(seed, seed + particles)
    x_T = target.initial_noise((particles, 1, 28, 28), seeds=seeds)
    both = [expert(unet, schedule, label) for label in (NULL_CLASS, *digits)]
    runs = [
        ("plain CFG", guidance.product(both, [-1.0, 1.0, 1.0]), None),
        ("mean score", target.denoiser, None),
        ("weighted", target.denoiser, target),
    ]
    rows = {}
    for name, denoiser, hook in runs:
        x0 = sample(denoiser, x_T, "dpmpp_2m_sde", nfe, noise_seeds=seeds, hook=hook, progress=True)
        images = x0 if hook is None else target.unweighted(x0)
        p = classifier(images).softmax(1)[:, list(digits)]
        rows[name] = images, p
        first, second = p.mean(0).tolist()
        click.echo(f"{name:10}: {digits[0]} {first:.3f}, {digits[1]} {second:.3f}, neither {1 - first - second:.3f}")
    left, times = target.effective[:, 0], int(target.resampled.sum())
    click.echo(f"effective particles: at least {left.min():.1f}, {left[-1]:.1f} at the end; resampled {times} times")
    draw(rows, min(10, particles), out)


if __name__ == "__main__":
    main()
