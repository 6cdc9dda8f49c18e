"""How often a classifier is led astray, at equal evaluations: `python tests/benchmarks/adversarial.py [images]`.

Prints a table, asserts nothing. The embedded model is asked for digits; the target is what the embedded classifier holds for
the second likeliest in the plain sample. A try is DDIM with 10 evaluations; an exact one that failed costs 20 more, forwards
again and their vector-Jacobian products. "still the digit": of the successes, those in which the model itself, asked which
class explains the image best (the least error of its prediction over 8 noise levels), says the digit that was asked for.
"distance": of the successes from the plain samples.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, load_demo_pipeline, sample
from fewstep.demo import load_demo_classifier
from fewstep.samplers import guidance

NFE = 10


class Digits:
    """The embedded model, asked for classes."""

    def __init__(self) -> None:
        pipe = load_demo_pipeline()
        self.unet = pipe.unet.requires_grad_(False)
        self.schedule = NoiseSchedule.from_config(pipe.scheduler.config)
        self.classifier = load_demo_classifier()

    def denoiser(self, labels: Tensor) -> Denoiser:
        return Denoiser(lambda x, t: self.unet(x, t, class_labels=labels).sample, self.schedule)

    @torch.no_grad()
    def judged(self, images: Tensor) -> Tensor:
        """The class under which the model predicts noise best, (B,)."""
        eps = torch.randn(8, *images.shape[1:], generator=torch.Generator().manual_seed(1))
        errors = torch.zeros(len(images), 10)
        for k, t in enumerate(torch.linspace(0.2, 0.7, 8).tolist()):
            t = t * self.schedule.t_max
            x = float(self.schedule.alpha(t)) * images + float(self.schedule.sigma(t)) * eps[k]
            for c in range(10):
                found = self.denoiser(torch.full((len(images),), c))(x, t)
                errors[:, c] += (found - eps[k]).square().mean((1, 2, 3))
        return errors.argmin(1)


def main(images: int) -> None:
    digits = Digits()
    labels = torch.arange(images) % 10
    denoiser, classifier = digits.denoiser(labels), digits.classifier
    x_T = torch.randn(images, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = sample(denoiser, x_T, "ddim", NFE)
        logits = classifier(plain)
    right = logits.argmax(1) == labels
    target = logits.scatter(1, labels[:, None], -torch.inf).argmax(1)
    print(
        f"{images} images, {int(right.sum())} read as asked for; the model itself says so of {agreed(digits, plain, labels)}"
    )
    print(
        "| form | scale | noise_scale | tries | NFE | success | still the digit | distance |\n|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    runs = [(False, s, a, 30) for s, a in ((0.0, 0.5), (0.0, 1.0), (1.0, 0.5))]
    runs += [(True, s, a, 10) for s, a in ((0.0, 0.05), (0.0, 0.1), (0.0, 0.2), (1.0, 0.1))]
    for exact, scale, climb, tries in runs:
        found = guidance.adv_diff(
            denoiser, x_T, classifier, target, "ddim", NFE, scale=scale, noise_scale=climb, tries=tries, exact=exact
        )
        hits = found.success & right
        still = agreed(digits, found.x0[hits], labels[hits]) if hits.any() else "-"
        far = (found.x0 - plain)[hits].flatten(1).norm(dim=1).mean() if hits.any() else float("nan")
        cost = NFE * ((3 * found.tries - 2) if exact else found.tries).float().mean()
        print(
            f"| {'exact' if exact else 'published'} | {scale:g} | {climb:g} | {tries} | {cost:.0f} of "
            f"{NFE * (3 * tries - 2 if exact else tries)} | {int(hits.sum())} of {int(right.sum())} | {still} | {far:.1f} |",
            flush=True,
        )


def agreed(digits: Digits, images: Tensor, labels: Tensor) -> str:
    return f"{int((digits.judged(images) == labels).sum())} of {len(images)}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
