"""A network fine-tuned towards a reward without a gradient: sampling as a policy, by DDPO or GRPO.

    python examples/policy_gradients.py                                   # GRPO: bold digits
    python examples/policy_gradients.py --method ddpo                     # DDPO: the same
    python examples/policy_gradients.py --reward slant                    # italics: a noisier reward
    python examples/policy_gradients.py --method exact                    # the exact gradient of a smooth stand-in, beside them

Rewards count pixels of the image cut at zero, which no gradient comes through: the share of ink, or the slant of what is
inked. A round draws runs of a stochastic solver for each class (a group), and their log-probabilities are raised by how much
better than their group they are: GRPO by clipped ratios, in a few steps a round and with the KL to the frozen network in its
loss; DDPO by the plain policy gradient, one step a round. Only low-rank terms (LoRA) are trained. It prints the reward with
its standard error, how many digits the classifier reads as asked and, with --images, FD-digits to the MNIST test set: before
and after, on the same noise, none of which was trained on. Pictures before and after are drawn too.
"""

import time
from collections.abc import Callable

import click
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from torchvision.utils import save_image

import fewstep.eval as fe
from fewstep import Denoiser, NoiseSchedule, adjoint, load_demo_pipeline, sample
from fewstep.demo import load_demo_classifier

CLASSES = 10


def cut(x: Tensor, smooth: bool) -> Tensor:
    """Where ink is: yes or no, or smoothly."""
    return (x / 0.1).sigmoid() if smooth else (x > 0).to(x)


def ink(x: Tensor, smooth: bool = False) -> Tensor:
    """Percent of the image that is inked; digits have about 13."""
    return 100 * cut(x, smooth).mean((1, 2, 3))


def slant(x: Tensor, smooth: bool = False) -> Tensor:
    """Shear of the ink in percent: 0 upright, positive leaning to the right; digits have about 12."""
    shape = cut(x, smooth) + 1e-6
    shape = shape / shape.sum((2, 3), keepdim=True)
    right, up = torch.arange(28.0).view(1, 1, 1, 28), -torch.arange(28.0).view(1, 1, 28, 1)
    right = right - (shape * right).sum((2, 3), keepdim=True)
    up = up - (shape * up).sum((2, 3), keepdim=True)
    shear = 100 * (shape * right * up).sum((1, 2, 3)) / (shape * up * up).sum((1, 2, 3))
    return shear.clamp(-60, 60)  # of a dash or a blot it may be anything


REWARDS: dict[str, Callable[..., Tensor]] = {"ink": ink, "slant": slant}


class LowRank(nn.Module):
    """weight + scale a b, with a = 0 at first: the frozen network is that of scale 0."""

    scale = 1.0

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(len(weight), rank))
        self.b = nn.Parameter(torch.randn(rank, weight[0].numel()) / weight[0].numel() ** 0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + LowRank.scale * (self.a @ self.b).view_as(weight)


def low_rank(network: nn.Module, rank: int) -> list[nn.Parameter]:
    """Add low-rank terms to all linear and convolutional weights; the rest is frozen."""
    network.eval().requires_grad_(False)
    for layer in [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]:
        register_parametrization(layer, "weight", LowRank(layer.weight, rank))
    return [p for p in network.parameters() if p.requires_grad]


class Trainer:
    """A network, what is trained of it, and one round by each method."""

    def __init__(self, reward: str, solver: str, nfe: int, lr: float, rank: int, kl: float) -> None:
        pipe = load_demo_pipeline()
        self.reward, self.solver, self.nfe, self.kl = REWARDS[reward], solver, nfe, kl
        self.weights, self.unet = low_rank(pipe.unet, rank), pipe.unet
        self.schedule = NoiseSchedule.from_config(pipe.scheduler.config)
        self.optimiser = torch.optim.AdamW(self.weights, lr, weight_decay=0.0)

    def denoiser(self, digits: Tensor) -> Denoiser:
        return Denoiser(lambda x, t: self.unet(x, t, class_labels=digits).sample, self.schedule)

    def step(self, loss: Tensor) -> None:
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()

    def round(self, method: str, group: int, seeds: range) -> float:
        """One round on `group` runs of each class in turn; the mean reward of its samples."""
        digits = torch.tensor(seeds) // group % CLASSES
        denoiser, x_T = self.denoiser(digits), torch.randn(len(seeds), 1, 28, 28)
        if method == "exact":
            x0 = adjoint.sample(denoiser, x_T, self.solver, self.nfe, noise_seeds=seeds)
            self.step(-self.reward(x0, smooth=True).mean())
            return float(self.reward(x0.detach()).mean())
        t = adjoint.rollout(denoiser, x_T, self.solver, self.nfe, noise_seeds=seeds)
        rewards = self.reward(t.sample)
        A = adjoint.advantages(rewards, group)
        if method == "ddpo":
            self.step(adjoint.reinforce(t.log_prob(denoiser), A) / t.size)
            return float(rewards.mean())
        LowRank.scale = 0.0
        with torch.no_grad():
            frozen = t.means(denoiser) if self.kl else ()
        LowRank.scale = 1.0
        for _ in range(2):
            means = t.means(denoiser)
            loss = adjoint.clipped(t.log_prob(means), t.log_prob(), A, 2e-4, size=t.size)
            self.step(loss + self.kl * t.kl(means, frozen).mean() / t.size if self.kl else loss)
        return float(rewards.mean())


@click.command()
@click.option("--method", type=click.Choice(["grpo", "ddpo", "exact"]), default="grpo", show_default=True)
@click.option("--reward", type=click.Choice(list(REWARDS)), default="ink", show_default=True)
@click.option("--rounds", default=5, show_default=True, help="Rounds of runs and updates.")
@click.option("--classes", default=4, show_default=True, help="Groups of a round.")
@click.option("--group", default=6, show_default=True, help="Runs of a class in a round.")
@click.option("--solver", default="dpmpp_2m_sde", show_default=True, help="Any with noise.")
@click.option("--nfe", default=4, show_default=True, help="Network evaluations.")
@click.option(
    "--lr",
    type=float,
    help="Learning rate of AdamW  [default: 2e-3 of grpo; 3e-4 of the others, whose steps nothing bounds]",
)
@click.option("--rank", default=4, show_default=True, help="Of what is added to each weight.")
@click.option("--kl", default=0.05, show_default=True, help="Weight of the KL to the frozen network (GRPO).")
@click.option("--held-out", default=50, show_default=True, help="Images that are judged before and after.")
@click.option("--images", default=0, show_default=True, help="Images of FD-digits; 0 for none.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="policy_gradients.png", show_default=True)
def main(
    method: str, reward: str, rounds: int, classes: int, group: int, solver: str, nfe: int, lr: float | None, rank: int,
    kl: float, held_out: int, images: int, seed: int, out: str,
) -> None:  # fmt: skip
    """Fine-tune the demo network towards a reward."""
    torch.manual_seed(seed)
    lr = lr or (2e-3 if method == "grpo" else 3e-4)
    trainer, classifier = Trainer(reward, solver, nfe, lr, rank, kl), load_demo_classifier()

    @torch.no_grad()
    def drawn(number: int) -> Tensor:
        """Images of noise that is not trained on, classes in turn."""
        x_T = torch.randn(number, 1, 28, 28, generator=torch.Generator().manual_seed(10**6 + seed))
        seeds, digits, parts = range(10**7, 10**7 + number), torch.arange(number) % CLASSES, []
        for i in range(0, number, 50):
            own = slice(i, i + 50)
            parts.append(sample(trainer.denoiser(digits[own]), x_T[own], solver, nfe, noise_seeds=seeds[own]))
        return torch.cat(parts)

    def judged(when: str) -> tuple[Tensor, Tensor]:
        x0 = drawn(max(held_out, images))
        some = x0[:held_out]
        R = trainer.reward(some)
        right = (classifier(some).argmax(1) == torch.arange(held_out) % CLASSES).float().mean()
        told = f"{when:>6}: {reward} {R.mean():.2f} +- {R.std() / len(R) ** 0.5:.2f}, {right:4.0%} as asked"
        if images:
            shown = x0[:images].clamp(-1, 1)
            told += f", {fe.fid('mnist-test', shown, extractor='digits', range=(-1, 1), progress=False)}"
        click.echo(told)
        return some, R

    (before, R), begun, spent = judged("before"), time.time(), time.process_time()
    for i in range(rounds):
        first = i * classes * group
        mean = trainer.round(method, group, range(first, first + classes * group))
        click.echo(f"round {i + 1}: {mean:.2f}", err=True)
    cost = f"{time.time() - begun:.0f} s, {time.process_time() - spent:.0f} s of processor time"
    after, R_after = judged("after")
    gain = R_after - R
    click.echo(
        f"{method}: {gain.mean():+.2f}, {gain.mean() / (gain.std() / len(gain) ** 0.5):.1f} standard errors; {cost}"
    )
    save_image((torch.cat([before[:20], after[:20]]) + 1) / 2, out, nrow=10, pad_value=0.5)


if __name__ == "__main__":
    main()
