"""Train a class-conditional colour network by flow matching, for as long as there is time; any diffusers tool can draw from it.

    python examples/train_colours.py --data cifar10.zip --out colours --minutes 600      # again: goes on where it stopped
    python examples/train_colours.py --data cifar10.zip --out large --size large --compile       # on a GPU

DATA is a zip or folder of train/CLASS/*.jpg and test/CLASS/*.jpg, torchvision's cifar-10-batches-py, or an .npz. --out
receives a diffusers pipeline (`fewstep sample colours --classes 0,1,2 --guidance 2`), state.safetensors, from which the same
command goes on, to the bit as if it had never stopped, log.jsonl with the loss on untouched pictures, and samples.png, a row a
class. All are written every few minutes; a run that is killed loses what came after, Ctrl-C loses nothing. One label in ten is
replaced by the null class: guidance needs both.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import colour_pictures
import torch
from colour_training import STATE, Settings, Training
from torchvision.utils import save_image
from tqdm import tqdm

from fewstep import Scheduler
from fewstep.demo.pipeline import PART
from fewstep.devices import chosen_device
from fewstep.output.exclusive import exclusive
from fewstep.output.files import whole, write_text

SIZES = {  # widths of the levels, layers of each
    "small": ((32, 64, 128, 128), 1),  # 4.5 M parameters, 60 ms of one CPU core a picture
    "medium": ((48, 96, 192), 2),  # 9.3 M
    "large": ((80, 160, 320), 2),  # 25.7 M, for GPUs
}
READ = 20  # updates between looks at the loss, each of which waits for a GPU


@contextmanager
def until_told() -> Iterator[list[int]]:
    """Signals to stop, as they come: an update under way ends first. The second one is not waited with."""
    came: list[int] = []

    def note(number: int, _: Any) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def mean_of(losses: list[torch.Tensor], training: Training) -> float:
    """ValueError where it is no number: nothing of that is kept."""
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise ValueError(
            f"the loss is {mean} after update {training.n_done}: begin again with a lower --lr, in another --out"
        )
    return mean


def keep(training: Training, out: Path, loss: float, columns: int, guidance: float) -> None:
    """State, log, pipeline and a sheet of samples: in this order, so that the state is never behind."""
    began = time.monotonic()
    told = dict(
        step=training.n_done, images=training.n_done * training.settings.batch, seconds=round(training.seconds, 1)
    )
    training.log.append({**told, "loss": loss, "held_out": training.held_out(), "lr": training.rate()})
    training.save(out)
    write_text(out / "log.jsonl", "".join(json.dumps(line) + "\n" for line in training.log))
    training.export(out)
    if columns:
        sheet(training, out / "samples.png", columns, guidance)
    training.seconds += time.monotonic() - began


def sheet(training: Training, path: Path, columns: int, guidance: float, nfe: int = 10) -> None:
    """A row a class, a column a noise, always the same ones."""
    pipe, classes = training.pipeline(), training.settings.classes
    pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, solver="dpmpp_2m")
    pipe.set_progress_bar_config(disable=True)
    labels = [label for label in range(classes) for _ in range(columns)]
    noise = [torch.Generator().manual_seed(k % columns) for k in range(len(labels))]
    draw = dict(guidance_scale=guidance, num_inference_steps=nfe, output_type="pt")
    parts = [pipe(labels[k : k + 40], generator=noise[k : k + 40], **draw).images for k in range(0, len(labels), 40)]
    with whole(path) as part:
        save_image(torch.cat(parts).float().cpu(), part, nrow=columns, padding=1, pad_value=0.5)


def train(
    training: Training, out: Path, minutes: float, steps: float, every: float, columns: int, guidance: float
) -> bool:
    """Updates until `minutes` or `steps` are used up, all runs together; False where it was told to stop before."""
    bar = tqdm(initial=training.n_done, total=None if math.isinf(steps) else int(steps), unit="update", smoothing=0.02)
    losses: list[torch.Tensor] = []
    kept, mark, mean = time.monotonic(), time.monotonic(), math.nan
    with until_told() as stop, bar:
        while not stop and training.n_done < steps and training.seconds < 60 * minutes:
            losses.append(training.update())
            training.seconds, mark = training.seconds + time.monotonic() - mark, time.monotonic()
            bar.update()
            if len(losses) % READ == 0 or not math.isfinite(mean):
                mean = mean_of(losses[-READ:], training)
                last = f"{training.log[-1]['held_out']:.4f}" if training.log else "-"
                share = f"{training.seconds / 60:.0f} of {minutes:g} min"
                bar.set_postfix(loss=f"{mean:.4f}", held_out=last, time=share, refresh=False)
            if time.monotonic() - kept > 60 * every:
                keep(training, out, mean_of(losses, training), columns, guidance)
                losses, kept, mark = [], time.monotonic(), time.monotonic()
        if losses:
            keep(training, out, mean_of(losses, training), columns, guidance)
    return not stop


POSITIVE = click.FloatRange(0, min_open=True)


def widths_of(text: str) -> tuple[int, ...]:
    """ "32,64,128" as numbers."""
    try:
        widths = tuple(int(width) for width in text.split(","))
    except ValueError:
        widths = ()
    if not 2 <= len(widths) <= 4 or any(width < 8 or width % 8 for width in widths) or widths[-1] % 32:
        raise ValueError(
            f"--widths {text} must be two to four multiples of 8 with commas between them, the last one of 32; for example "
            "32,64,128"
        )
    return widths


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Zip, folder or .npz of pictures.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="colours", show_default=True)
@click.option("--size", type=click.Choice(list(SIZES)), default="small", show_default=True)
@click.option("--widths", help="Of the levels, in the place of a size: 32,64,128.")
@click.option("--layers", type=click.IntRange(1), help="Of each level.")
@click.option("--minutes", type=POSITIVE, default=600, show_default=True, help="Of all runs on the folder together.")
@click.option("--steps", type=click.IntRange(1), help="Updates of all runs together  [until the minutes are over].")
@click.option("--every", type=POSITIVE, default=5, show_default=True, help="Minutes between states that are kept.")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Pictures in an update.")
@click.option("--lr", type=POSITIVE, default=1e-3, show_default=True, help="Highest learning rate.")
@click.option("--drop", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Share of labels dropped.")
@click.option("--seed", default=0, show_default=True, help="Of weights and all that is drawn.")
@click.option("--columns", type=click.IntRange(0), default=3, show_default=True, help="Of samples.png; 0 draws none.")
@click.option("--guidance", type=float, default=2.0, show_default=True, help="Of samples.png.")
@click.option("--bf16/--fp32", default=None, help="Arithmetic  [bf16 on a GPU that has it, fp32 elsewhere].")
@click.option("--compile", "compiled", is_flag=True, help="torch.compile the network.")
@click.option("--device", help="Where to train  [a GPU if there is one].")
def main(data: Path, out: Path, **options: Any) -> None:
    """Train a class-conditional colour network by flow matching; the same command again goes on where it stopped."""
    try:
        with exclusive(out, "the folder"):
            run(data, out, **options)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def run(
    data: Path, out: Path, *, size: str, widths: str | None, layers: int | None, minutes: float, steps: int | None,
    every: float, batch: int, lr: float, drop: float, seed: int, columns: int, guidance: float, bf16: bool | None,
    compiled: bool, device: str | None,
) -> None:  # fmt: skip
    """The command, within a folder that is this run's alone."""
    levels, depth = SIZES[size]
    levels, target = widths_of(widths) if widths else levels, chosen_device(device)
    bf16 = (target.type == "cuda" and torch.cuda.is_bf16_supported()) if bf16 is None else bf16
    if (out / "model_index.json").exists() and not (out / STATE).exists():
        raise ValueError(f"{out} holds a pipeline without the state of a training: give another --out")
    for left in out.glob(f"{PART}*"):  # of a run that was killed
        shutil.rmtree(left)
    pictures = colour_pictures.load(data)
    side, classes = pictures.images["train"].shape[-1], len(pictures.names)
    if side % 2 ** (len(levels) - 1):
        raise ValueError(f"pictures of {side} pixels cannot be halved for {len(levels)} levels: give fewer --widths")
    settings = Settings(levels, layers or depth, batch, lr, drop, seed, side, classes, pictures.digest())
    training = Training(settings, pictures, target, bf16, compiled)
    if (out / STATE).exists():
        training.restore(out)
    count = sum(w.numel() for w in training.network.parameters()) / 1e6
    where = f"from update {training.n_done}" if training.n_done else "from new weights"
    click.echo(f"{count:.1f} M parameters, {len(pictures.images['train'])} pictures, {classes} classes, {where}")
    ended = train(training, out, minutes, steps or math.inf, every, columns, guidance)
    last = training.log[-1] if training.log else {"held_out": math.nan}
    click.echo(
        f"{'ended' if ended else 'stopped'} after {training.n_done} updates in {training.seconds / 60:.1f} minutes; loss on "
        f"untouched pictures {last['held_out']:.4f}. Draw: fewstep sample {out} --classes 0 --guidance {guidance:g}"
    )
    if not ended:
        click.echo("The same command goes on from here.")
        sys.exit(130)


if __name__ == "__main__":
    main()
