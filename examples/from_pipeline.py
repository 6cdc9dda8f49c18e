"""A diffusers pipeline as one differentiable function: compare solvers on it, then take gradients through it.

    python examples/from_pipeline.py                                         the embedded digits
    python examples/from_pipeline.py MODEL --call '{"prompt": "a red bicycle", "guidance_scale": 5.0}'

Conditioning, guidance and latent layout are the pipeline's own. MODEL is a folder or hub id of any diffusers pipeline,
--call what it is called with, as JSON.
"""

import json

import click
import torch
from diffusers import DiffusionPipeline

from fewstep import Denoiser, load_demo_pipeline, sample


@click.command()
@click.argument("model", default="demo")
@click.option("--call", default=None, help="JSON arguments of the pipeline.")
@click.option("--solvers", default="ddim,dpmpp_2m,unipc", show_default=True)
@click.option("--nfe", default=6, show_default=True, help="Network evaluations.")
@click.option("--reference", default=50, show_default=True, help="Evaluations of the reference.")
@click.option("--seed", default=0, show_default=True)
def main(model: str, call: str | None, solvers: str, nfe: int, reference: int, seed: int) -> None:
    """Errors of a few solvers on a pipeline, and the gradient of a loss with respect to the noise."""
    pipe = load_demo_pipeline() if model == "demo" else DiffusionPipeline.from_pretrained(model)
    demo = {"class_labels": [3, 7], "guidance_scale": 2.0}
    denoiser = Denoiser.from_pipeline(pipe, **(json.loads(call) if call else demo if model == "demo" else {}))

    x_T = denoiser.initial_noise(torch.Generator().manual_seed(seed))  # what the pipeline would draw with this seed
    start = denoiser.t_start
    with torch.no_grad():
        target = sample(denoiser, x_T, solver="dpmpp_2m", nfe=reference, t_start=start)
        for solver in solvers.split(","):
            x0 = sample(denoiser, x_T, solver=solver, nfe=nfe, t_start=start)
            error = (x0 - target).square().mean().sqrt() / target.square().mean().sqrt()
            click.echo(f"{solver:>12} at {nfe} evaluations: {float(error):.4f} from {reference} evaluations")

    x_T.requires_grad_()
    loss = sample(denoiser, x_T, solver="dpmpp_2m", nfe=nfe, t_start=start).square().mean()
    (gradient,) = torch.autograd.grad(loss, x_T)
    click.echo(f"d(mean square of x0) / d(x_T): norm {float(gradient.norm()):.3g}, through {nfe} evaluations")


if __name__ == "__main__":
    main()
