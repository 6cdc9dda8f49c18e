"""The commands `fewstep fid`, `fewstep eval`, `fewstep stats` and `fewstep metrics`. torch is imported inside them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from click.core import ParameterSource

from fewstep.arguments import CALL, NAMES, NOISE, NUMBERS, PLACE, parsed, watched

EXTRACTION = (
    click.option("--extractor", help="inception, digits, dinov2, clip  [default: the reference's, else inception]"),
    click.option("--protocol", type=click.Choice(["tf", "pytorch-fid", "clean"]), help="Of inception  [default: tf]"),
    click.option("--weights", help="File of the extractor's weights  [default: wherever a peer keeps it]"),
    click.option("--download", is_flag=True, help="Allow the weights to be downloaded where they are nowhere."),
    click.option("--fast", is_flag=True, help="bf16: faster, a little different, and said so in the result."),
    *PLACE,
    click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that decode."),
    click.option("--skip-bad", is_flag=True, help="Pass over images that cannot be used, and count them."),
    click.option("--key", help="Array in an .npz of several, e.g. test_images."),
    click.option("--resume", metavar="DIR", help="Keep the state in DIR, and go on from what is there."),
)
OUTPUT = (
    click.option("--json", "json_path", metavar="FILE", help="Write the values exactly; - for the standard output."),
    click.option("--html", "html_path", metavar="FILE", help="Write a page with values, curves and samples."),
)


def _evaluating(how: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `evaluate` among those of a command: what was said, and nothing else."""
    names = ("extractor", "protocol", "weights", "download", "fast", "device", "batch_size", "workers", "skip_bad")
    said = {name: how[name] for name in (*names, "key", "resume", "number") if how.get(name)}
    return {**said, "progress": True}


def _metric_options(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """kid.subsets=50 -> {"kid": {"subsets": 50}}."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, dot, rest = text.partition(".")
        if not dot:
            raise click.BadParameter(f"{text!r} is not METRIC.KEY=VALUE", param_hint="--metric-option")
        key, value = parsed(rest)
        found.setdefault(name, {})[key] = value
    return found


def _first() -> bool:
    """Whether this process is the one that speaks."""
    import os

    return os.environ.get("RANK", "0") == "0"


def _check_outputs(*paths: tuple[str | None, str]) -> None:
    """ValueError for an output whose name does not say what it is, before any work."""
    for path, suffix in paths:
        if path not in (None, "-") and not str(path).endswith(suffix):
            raise ValueError(f"{path!r} is to be written as {suffix}: give a name that ends so")


def _write(told: Any, json_path: str | None, html_path: str | None, pictures: Callable[[Path], list[Path]]) -> None:
    """The files that were asked for; a JSON on the standard output stands there alone."""
    if html_path:
        with TemporaryDirectory() as folder:
            told.to_html(html_path, pictures(Path(folder)))
    if json_path and json_path != "-":
        told.to_json(json_path)
    for path in (json_path, html_path):
        if path not in (None, "-"):
            click.echo(f"wrote {path}", err=True)


def _shown(real: Any, generated: str, key: str | None, folder: Path) -> list[Path]:
    """A sheet of the first images of both sides, of those that are images."""
    from fewstep.eval.gaussian.statfile import holds_statistics
    from fewstep.eval.images import holds_images, image_set
    from fewstep.output.pictures import save_image, tile

    written = []
    for name, source in (("real", real), ("generated", generated)):
        if source is not None and holds_images(source) and not holds_statistics(source):
            images = image_set(source, skip_bad=True, **({"key": key} if key else {}))
            ((_, some),) = images.read([range(min(24, images.count or 0))])
            size = max(max(image.shape[1:]) for image in some)
            scaled = [_enlarged(image, max(1, 96 // size)) for image in some]
            save_image(tile(scaled, 12), folder / f"{name}.png")
            written.append(folder / f"{name}.png")
    return written


def _enlarged(image: Any, scale: int) -> Any:
    from torchvision.transforms.functional import to_pil_image

    return to_pil_image(image.repeat_interleave(scale, 1).repeat_interleave(scale, 2))


def _pair(real: str | None, generated: str, metrics: Sequence[str], how: dict[str, Any]) -> None:
    """Evaluate two sets that exist, and tell."""
    from fewstep.eval.passes.evaluation import evaluate

    json_path, html_path = how["json_path"], how["html_path"]
    options = _metric_options(how.get("metric_options", ()))
    report = evaluate(real, generated, metrics, options=options, **_evaluating(how))
    if _first():
        click.echo(report.to_json() if json_path == "-" else report.table())
        _write(report, json_path, html_path, lambda folder: _shown(real, generated, how["key"], folder))


@click.command("fid")
@click.argument("real")
@click.argument("generated")
@click.option("--number", type=click.IntRange(2), help="Look at the first so many generated images.")
def fid_command(real: str, generated: str, **how: Any) -> None:
    """FID of GENERATED against REAL: folders, .zip, .npz of images or statistics, or `mnist`, which is bundled.

    The squared Frechet distance of Inception features in the protocol that is named with it; with another extractor it is
    called FD-<extractor>. Runs in several processes under `accelerate launch -m fewstep fid ...`.
    """
    _check_outputs((how["json_path"], ".json"), (how["html_path"], ".html"))
    _pair(real, generated, ("fid",), how)


@click.command("eval")
@click.argument("sets", nargs=-1, metavar="[REAL] [GENERATED] | LEARNED.json [MODEL]")
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
@click.option("--against", type=NAMES, default=(), metavar="A,B,...", help="Of LEARNED.json: other solvers to beat.")
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
    """
    _check_outputs((how["json_path"], ".json"), (how["html_path"], ".html"))
    if sets and (sets[0].endswith(".json") or (sets[0] == "demo" and not Path("demo").exists())):
        _learned(sets, model, metrics, how)
        return
    if model is not None:
        if sets:
            raise ValueError(f"--model draws the images; give the real ones as --real, not as {' '.join(sets)!r}")
        _curve(model, metrics, how)
        return
    if how["real"] is not None:
        sets = (how["real"], *sets)
    if not 1 <= len(sets) <= 2:
        raise ValueError(f"two sets are needed, REAL and GENERATED (one for the inception score); got {len(sets)}")
    real, generated = sets if len(sets) == 2 else (None, sets[0])
    _pair(real, generated, metrics, how)


def _learned(sets: Sequence[str], model: str | None, metrics: Sequence[str], how: dict[str, Any]) -> None:
    """A learned artefact against fixed recipes; exit code 1 where it is certainly worse."""
    from fewstep.samplers.artefact.artefact import as_artefact
    from fewstep.samplers.learned.report.comparing import compare_learned

    source = click.get_current_context().get_parameter_source
    said = {name: how[name] for name in ("nfes", "seed", "number") if source(name) is ParameterSource.COMMANDLINE}
    if len(sets) > 2 or (len(sets) == 2 and model is not None):
        raise ValueError(
            f"a learned artefact is compared on one MODEL; got {' '.join(sets[1:])} {model or ''}".rstrip()
        )
    artefact, first = as_artefact(sets[0]), said.get("seed", 5000)
    model = model or (sets[1] if len(sets) == 2 else str(artefact.model.get("name") or "demo"))
    place = {name: how[name] for name in ("classes", "prompt", "batch_size", "device")}
    told = compare_learned(
        artefact, model, nfe=said.get("nfes"), guidance=None if how["guidance"] is None else [how["guidance"]],
        seeds=range(first, first + said.get("number", 256)), against=how["against"],
        watch=lambda parts, label: watched(parts, label, lambda part: f"seeds {part.seeds[0]} to {part.seeds[-1]}"),
        measure=_measuring(model, metrics, how) if source("metrics") is ParameterSource.COMMANDLINE else None, **place,
    )  # fmt: skip
    click.echo(told.to_json() if how["json_path"] == "-" else told.text())
    _write(told, how["json_path"], how["html_path"], lambda _: [])
    if told.worse:
        raise click.exceptions.Exit(1)


def _measuring(model: str, metrics: Sequence[str], how: dict[str, Any]) -> Callable[..., dict[str, float]]:
    """Metrics of the images that a contender draws, for `compare_learned`."""
    evaluation = _evaluating({**how, "number": None, "resume": None})
    real = how["real"] or ("mnist" if model == "demo" else None)
    if real is None:
        raise ValueError(f"{', '.join(metrics)}: compared with real images; give them as --real")

    def measure(contender: Any, nfe: int, seeds: Sequence[int], guidance: float | None) -> dict[str, float]:
        from fewstep.eval.images.generated import Generated
        from fewstep.eval.passes.evaluation import evaluate

        call = {name: how[name] for name in ("classes", "prompt", "dtype", "batch_size", "device")}
        images = Generated(model, contender, nfe, seeds=seeds, guidance=guidance, noise=how["noise"], **call)
        return {result.label: result.value for result in evaluate(real, images, metrics, **evaluation).values()}

    return measure


def _curve(model: str, metrics: Sequence[str], how: dict[str, Any]) -> None:
    """Metrics over evaluations, and the files that tell of them."""
    from fewstep.eval.compare.pairs import MEASURES
    from fewstep.eval.compare.sweep import curve
    from fewstep.eval.metrics import find

    evaluation = _evaluating(how)
    place = {"device": evaluation.pop("device", None), "batch_size": how["batch_size"]}
    state, number = evaluation.pop("resume", None), evaluation.pop("number", 1000)
    if options := _metric_options(how["metric_options"]):
        evaluation["options"] = options
    real = how["real"]
    if real is None and model == "demo" and any(name not in MEASURES and find(name).real for name in metrics):
        real = "mnist"
    call = {name: how[name] for name in ("classes", "prompt", "guidance", "dtype")}
    run = {"grid": how["grid"], "noise": how["noise"], "options": dict(map(parsed, how["options"]))}
    told = curve(
        model, how["solvers"], how["nfes"], real, metrics, number, how["seed"], pairs=how["pairs"], state=state,
        evaluation=evaluation, watch=watched, **run, **place, **call,
    )  # fmt: skip
    if not _first():
        return
    click.echo(told.to_json() if how["json_path"] == "-" else told.text())
    if how["out"]:
        for path in told.write(how["out"]):
            click.echo(f"wrote {path}", err=True)
    _write(told, how["json_path"], how["html_path"], told.pictures)


@click.command("stats")
@click.argument("source")
@click.option("--out", required=True, metavar="REF.npz", help="Statistics that this library and its peers read.")
@click.option("--features", is_flag=True, help="Keep every feature vector too: for kid, prdc, fid_inf ...")
@click.option("--half", is_flag=True, help="These in float16, half the size.")
@click.option("--spatial", is_flag=True, help="Also for sFID.")
@click.option("--name", default="", help="What the images are, in words  [default: where they are]")
@click.option("--number", type=click.IntRange(2), help="Look at the first so many images.")
def stats_command(source: str, out: str, features: bool, half: bool, spatial: bool, name: str, **how: Any) -> None:
    """Mean and covariance of the features of SOURCE as a file, to be compared with later: `fewstep fid REF.npz IMAGES`."""
    from fewstep.eval.passes.evaluation import stats

    found = stats(source, out, rows=features, half=half, spatial=spatial, name=name, **_evaluating(how))
    if _first():
        meta = found.meta
        click.echo(f"{out}: {found.n} images of {meta.source}, {meta.extractor} {meta.protocol}, weights {meta.hash}")


@click.command("metrics")
def metrics_command() -> None:
    """List the metrics: what they need, which way is better, where they come from."""
    from fewstep.eval.compare.pairs import MEASURES
    from fewstep.eval.metrics import metrics as known

    lines = [(name, "higher" if m.higher_is_better else "lower", m.reference) for name, m in known().items()]
    lines += [(name, "", "error to a reference run on the same noise (--model only)") for name in MEASURES]
    widths = [max(len(line[j]) for line in lines) for j in range(2)]
    for line in lines:
        click.echo(f"{line[0]:{widths[0]}}  {line[1]:{widths[1]}}  {line[2]}".rstrip())


for _command, _more in (
    (fid_command, (*EXTRACTION, *OUTPUT)),
    (eval_command, (*EXTRACTION, *CALL, NOISE, *OUTPUT)),
    (stats_command, EXTRACTION),
):
    for _decorate in _more:
        _decorate(_command)
