"""A fewstep solver in a diffusers pipeline: one line.

    python examples/plug_into_pipeline.py                                    the embedded digits, 8 evaluations
    python examples/plug_into_pipeline.py MODEL --call '{"prompt": "a red bicycle"}' --solver dpmpp_2m --nfe 12

MODEL is a folder or hub id of any diffusers pipeline that makes images; --call is what it is called with, as JSON.
"""

import json

import click
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import make_image_grid

from fewstep import Scheduler, load_demo_pipeline


@click.command()
@click.argument("model", default="demo")
@click.option("--call", default=None, help="JSON arguments of the pipeline.")
@click.option("--solver", default="unipc", show_default=True)
@click.option("--nfe", default=8, show_default=True, help="Network evaluations.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="plugged.png", show_default=True)
def main(model: str, call: str | None, solver: str, nfe: int, seed: int, out: str) -> None:
    """Draw images with a fewstep solver inside a pipeline."""
    pipe = load_demo_pipeline() if model == "demo" else DiffusionPipeline.from_pretrained(model)
    arguments = json.loads(call) if call else {"class_labels": list(range(10))} if model == "demo" else {}

    pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, solver=solver)  # the line

    generator = torch.Generator().manual_seed(seed)
    images = pipe(**arguments, num_inference_steps=nfe, generator=generator).images
    make_image_grid(images, rows=1, cols=len(images)).save(out)
    click.echo(f"{out}: {len(images)} images of {type(pipe).__name__} by {solver} in {nfe} evaluations")


if __name__ == "__main__":
    main()
