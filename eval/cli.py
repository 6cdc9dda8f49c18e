"""The commands `fewstep fid`, `fewstep eval`, `fewstep stats` and `fewstep metrics`: their options.

What they do is in eval/commands, imported when one of them is called.
"""

from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from fewstep.arguments import CALL, NAMES, NOISE, NUMBERS, PLACE
from fewstep.eval.commands import peers

EXTRACTION = (
    click.option(
        "--extractor",
        help="inception, digits, dinov2, clip; of clips i3d, videomae  [default: as of the reference]",
    ),
    click.option(
        "--protocol",
        type=click.Choice(["tf", "pytorch-fid", "clean", "dgm-eval"]),
        help="Of inception  [default: tf], of dinov2.",
    ),
    click.option(
        "--weights", help="File of the extractor's weights  [default: where pytorch-fid, torch-fidelity keep it]"
    ),
    click.option(
        "--download", is_flag=True, help="Allow weights and known statistics to be downloaded where they are nowhere."
    ),
    click.option("--fast", is_flag=True, help="bf16: faster, a little different, and said so in the result."),
    *PLACE,
    click.option(
        "--workers",
        "--num-workers",
        "workers",
        type=click.IntRange(0),
        help="Processes that decode  [default: as many as help on a GPU, none on a CPU]",
    ),
    click.option("--skip-bad", is_flag=True, help="Pass over images that cannot be used, and count them."),
    click.option(
        "--limit", type=click.IntRange(1), metavar="MIB", help="Memory that one decoded image may take  [default: 192]"
    ),
    click.option(
        "--frames", type=click.IntRange(2), help="Of each clip, where the sets are videos: a folder of frames each."
    ),
    click.option("--stride", type=click.IntRange(1), help="Of a clip, between its frames."),
    click.option("--clips", type=click.IntRange(1), help="Of each video  [default: 1]"),
    click.option("--key", help="Array in an .npz of several, e.g. test_images."),
    click.option("--resume", metavar="DIR", help="Keep the state in DIR, and go on from what is there."),
    click.option(
        "--processes",
        type=click.Choice(["shared", "alone"]),
        help="Where several were launched: divide the images, or leave all of them to this one  [default: shared]",
    ),
    click.option(
        "--wait", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="For the others  [default: 120]"
    ),
    *peers.OPTIONS,
)
OUTPUT = (
    click.option("--json", "json_path", metavar="FILE", help="Write the values exactly; - for the standard output."),
    click.option("--html", "html_path", metavar="FILE", help="Write a page with values, curves and samples."),
)


@click.command("fid", cls=peers.Command)
@click.argument("real", required=False)
@click.argument("generated", required=False)
@click.option("--number", type=click.IntRange(2), help="Look at the first so many generated images.")
def fid_command(real: str | None, generated: str | None, **how: Any) -> None:
    """FID of GENERATED against REAL: folders, .zip, .npz of images or statistics, or a name: `mnist`, which is bundled, or one
    of those that `fewstep stats --known` lists.

    The squared Frechet distance of Inception features in the protocol that is named with it; with another extractor it is
    called FD-<extractor>. Runs in several processes under `accelerate launch -m fewstep fid ...`.
    """
    from fewstep.eval.commands.two_sets import evaluate_sets

    real, generated = peers.sets_of(how, (real, generated))
    for name, value in (("REAL", real), ("GENERATED", generated)):
        if value is None:
            raise click.UsageError(f"Missing argument '{name}'.", click.get_current_context())
    assert real is not None and generated is not None
    evaluate_sets(real, generated, ("fid",), how)


@click.command("eval", cls=peers.Command)
@click.argument("sets", nargs=-1, metavar="[REAL] [GENERATED] | LEARNED.json [MODEL] | MODEL --gap")
@click.option("--metrics", type=NAMES, default="fid", show_default=True, help="Names that `fewstep metrics` lists.")
@click.option(
    "--metric-option", "metric_options", multiple=True, metavar="METRIC.KEY=VALUE", help="E.g. kid.subset_size=500."
)
@click.option("--model", help="Draw the images: folder or hub id of a diffusers pipeline, or demo.")
@click.option("--solver", "solvers", type=NAMES, default="dpmpp_2m", show_default=True, help="Of --model, one or more.")
@click.option("--nfe", "nfes", type=NUMBERS, default="5,10,20", show_default=True, help="Of --model: evaluations.")
@click.option("--real", help="Of --model: what it is compared with  [demo: mnist]")
@click.option("--pairs", type=click.IntRange(2), default=64, show_default=True, help="Images for rmse, psnr, lpips.")
@click.option("--grid", help="Of --model: a name that `fewstep grids` lists.")
@click.option("-n", "--number", type=click.IntRange(2), help="Generated images  [default: all; of --model: 1000]")
@click.option(
    "--labels", metavar="FILE", help="Classes of GENERATED: a line an image, or a .npy  [default: its folders]"
)
@click.option("--real-labels", metavar="FILE", help="Classes of REAL.")
@click.option("--against", type=NAMES, default=(), metavar="A,B,...", help="Of LEARNED.json: other solvers to beat.")
@click.option("--gap", is_flag=True, help="Of MODEL: how far it is from being a score, and its ODE from its SDE.")
@click.option("--out", metavar="DIR", help="Of --model: folder for curves, sheet, page and values.")
def eval_command(sets: tuple[str, ...], metrics: Sequence[str], model: str | None, **how: Any) -> None:
    """Metrics of GENERATED against REAL, or of images that --model draws with solvers at several evaluations.

    \b
    fewstep eval real/ generated/ --metrics fid,kid,prdc
    fewstep eval generated/ --metrics is
    fewstep eval --model demo --solver ddim,dpmpp_2m --nfe 5,10,20 --metrics fid,rmse --out curves

    All solvers draw the same seeds, so that differences between them are told apart by paired intervals. rmse, psnr and
    lpips are errors to a reference run on the same noise. --resume keeps what is done.

    \b
    fewstep eval five.json
    fewstep eval five.json demo --nfe 5 --against unipc,deis --metrics fid

    What `fewstep learn` wrote is compared with the best fixed recipe of its solver, and of those --against it, by the errors
    to a long run on 256 fresh seeds from 5000 on; exit code 1 where it is certainly worse. MODEL: the one it was learned on.
    `fewstep eval demo` is of the embedded artefact.

    \b
    fewstep eval demo --gap

    Without data: the residual of the Fokker-Planck equation and the skew part of the Jacobian at several levels, zero for a
    true score, and whether an ODE and an SDE draw from one law.
    """
    from fewstep.eval.commands.run_eval import run_eval

    source = click.get_current_context().get_parameter_source
    said = (name for name in ("nfes", "seed", "number", "metrics") if source(name) is ParameterSource.COMMANDLINE)
    if how["save_stats"]:
        raise ValueError("statistics are written by another command: fewstep stats IMAGES --out REF.npz")
    if how["input1"] or how["input2"]:
        sets = tuple(each for each in peers.sets_of(how, sets) if each is not None)
    run_eval(sets, metrics, model, peers.translated(how), frozenset(said))


@click.command("stats", cls=peers.Command)
@click.argument("source", required=False)
@click.option("--known", is_flag=True, help="List published statistics, which are references by name; fetches nothing.")
@click.option("--out", metavar="REF.npz", help="Statistics that this library and its peers read.")
@click.option("--features", is_flag=True, help="Keep every feature vector too: for kid, prdc, fid_inf ...")
@click.option("--half", is_flag=True, help="These in float16, half the size.")
@click.option("--spatial", is_flag=True, help="Also for sFID.")
@click.option("--name", default="", help="What the images are, in words  [default: where they are]")
@click.option("--number", type=click.IntRange(2), help="Look at the first so many images.")
def stats_command(source: str | None, out: str | None, known: bool, **how: Any) -> None:
    """Mean and covariance of the features of SOURCE as a file, to be compared with later: `fewstep fid REF.npz IMAGES`."""
    from fewstep.eval.commands.one_set import list_known, write_statistics

    if known:
        list_known()
        return
    source = source or how["input1"] or how["input2"]
    for name, value in (("argument 'SOURCE'", source), ("option '--out'", out)):
        if value is None:
            raise click.UsageError(f"Missing {name}.", click.get_current_context())
    assert source is not None and out is not None
    write_statistics(source, out, how)


@click.command("metrics")
def metrics_command() -> None:
    """List the metrics: what they need, which way is better, where they come from."""
    from fewstep.eval.commands.listing import list_metrics

    list_metrics()


for _command, _more in (
    (fid_command, (*EXTRACTION, *OUTPUT)),
    (eval_command, (*EXTRACTION, *CALL, NOISE, *OUTPUT)),
    (stats_command, EXTRACTION),
):
    for _decorate in _more:
        _decorate(_command)
