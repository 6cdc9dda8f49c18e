"""What pytorch-fid, torch-fidelity, EDM and clean-fid call the options of `fid`, `eval` and `stats`: taken, or told otherwise.

Light to import: eval/cli.py makes its options from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

LAYERS = ("64", "192", "768", "2048")
# torch-fidelity's first input is what is generated: its inception score is of that one.
OPTIONS = (
    click.option(
        "--layer", "--dims", "--feature-layer-fid", "--feature-layer-kid", "--feature-layer-prc", "layer",
        type=click.Choice(LAYERS), help="Of inception, for distances  [default: 2048, which alone is called FID]",
    ),
    click.option("-g", "--gpu", metavar="N", help="The same as --device cuda:N."),
    click.option("-c", "--cpu", is_flag=True, help="The same as --device cpu."),
    click.option("--feature-extractor", hidden=True),
    click.option("--feature-extractor-weights-path", hidden=True),
    click.option("--feature-extractor-compile", "compile", is_flag=True, hidden=True),
    click.option("--feature-extractor-internal-dtype", hidden=True),
    click.option("--save-stats", is_flag=True, help="Of fid: write the statistics of REAL to GENERATED, an .npz."),
    click.option("--input1", metavar="GENERATED", help="As of torch-fidelity, the generated set."),
    click.option("--input2", metavar="REAL", help="As of torch-fidelity, the real set."),
    click.option("--silent", is_flag=True, hidden=True),
    click.option("--samples-find-deep", is_flag=True, hidden=True),
    click.option("--save-cpu-ram", is_flag=True, hidden=True),
    click.option("--no-cache", is_flag=True, hidden=True),
)  # fmt: skip
NAMES = (
    *("gpu", "cpu", "feature_extractor", "feature_extractor_weights_path", "feature_extractor_internal_dtype"),
    *("save_stats", "input1", "input2", "silent", "samples_find_deep", "save_cpu_ram", "no_cache"),
)

_EXTRACTORS = {"inception-v3-compat": "inception"}
_METRICS = "type fewstep eval REAL GENERATED --metrics fid,kid,is,prdc (--isc is `is`, --prc `prdc`)"
_OPTION = "type fewstep eval REAL GENERATED --metrics ... --metric-option"
_CACHE = (
    "nothing is cached under a name: write statistics once with fewstep stats IMAGES --out REF.npz and give REF.npz"
)
_MODEL = "to draw images type fewstep eval --model MODEL --solver S --nfe N -n NUMBER --real REAL"
_GIVE = "give the sets as arguments, REAL first"
# What has another name and form here: the sentence that says what to type.
TOLD = {
    **dict.fromkeys(("--isc", "-i", "--fid", "-f", "--kid", "-k", "--prc", "-r"), _METRICS),
    **dict.fromkeys(("--ppl", "-p"), "perceptual path length is not measured here: " + _METRICS),
    "--feature-layer-isc": "the inception score is always of unbiased logits: leave it away",
    "--isc-splits": f"{_OPTION} is.splits=10",
    "--kid-subsets": f"{_OPTION} kid.subsets=100",
    "--kid-subset-size": f"{_OPTION} kid.subset_size=1000",
    "--kid-kernel": "kid has the polynomial kernel, cmmd the Gaussian one: type fewstep eval REAL GENERATED --metrics kid",
    "--kid-kernel-poly-degree": f"{_OPTION} kid.degree=3",
    "--kid-kernel-poly-gamma": f"{_OPTION} kid.gamma=G",
    "--kid-kernel-poly-coef0": f"{_OPTION} kid.coef=1",
    "--kid-kernel-rbf-sigma": f"{_OPTION} cmmd.sigma=10",
    "--prc-neighborhood": f"{_OPTION} prdc.k=3",
    "--prc-batch-size": f"{_OPTION} prdc.block=2048",
    "--rng-seed": f"{_OPTION} kid.seed=2020 (and is.seed=2020)",
    "--no-samples-shuffle": f"{_OPTION} is.shuffle=false",
    **dict.fromkeys(("--samples-find-ext", "--samples-ext-lossy"), "files are known by their suffixes and told when left out"),
    "--samples-resize-and-crop": "resize the images beforehand: the extractor's protocol alone resizes here",
    **dict.fromkeys(("--datasets-root", "--no-datasets-download"), "give the images; fewstep stats --known lists references"),
    **dict.fromkeys(("--cache-root", "--input1-cache-name", "--input2-cache-name"), _CACHE),
    **{
        f"--input{k}-model-{what}": _MODEL
        for k in (1, 2)
        for what in ("z-type", "z-size", "num-classes", "num-samples")
    },
    **dict.fromkeys(("--images", "--ref", "--fdir1", "--fdir2", "--dataset-name"), _GIVE),
    "-j": "type --json FILE, or --json - for the standard output",
    "-b": "type --batch-size N",
    "--num": "type --number N",
    "--batch": "type --batch-size N",
    "--mode": "type --protocol clean, tf (legacy_tensorflow) or pytorch-fid (legacy_pytorch)",
}  # fmt: skip


class Command(click.Command):
    """A command that answers options of peers which it does not take with what to type instead."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name
            if name in TOLD and not ctx.resilient_parsing:
                raise click.UsageError(f"{name} is not an option here; {TOLD[name]}.", ctx=ctx) from error
            raise


def translated(how: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a command under our names. ValueError for two that contradict each other, or what is not here."""
    ours, theirs = {k: v for k, v in how.items() if k not in NAMES}, {k: how.get(k) for k in NAMES}
    places = {f"cuda:{theirs['gpu'].split(',')[0]}" if theirs["gpu"] else None, "cpu" if theirs["cpu"] else None}
    places = ({how.get("device")} | places) - {None}
    if len(places) > 1:
        raise ValueError(f"--device, --gpu and --cpu name {' and '.join(sorted(map(str, places)))}: give one of them")
    ours["device"] = next(iter(places), None)
    for name, value, known in (
        ("extractor", theirs["feature_extractor"], _EXTRACTORS),
        ("weights", theirs["feature_extractor_weights_path"], {}),
    ):
        if value and ours.get(name):
            raise ValueError(f"--{name} is said twice, {ours[name]!r} and {value!r}: give one of them")
        ours[name] = known.get(value, value) if value else ours.get(name)
    if theirs["feature_extractor_internal_dtype"] not in (None, "float32"):
        raise ValueError(
            "features are computed in float32, or in bf16 with --fast: leave --feature-extractor-internal-dtype away"
        )
    return {**ours, "silent": bool(theirs["silent"])}


def sets_of(how: Mapping[str, Any], given: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """REAL and GENERATED where they were given as --input2 and --input1. ValueError where also by place."""
    named = (how.get("input2"), how.get("input1"))
    if not any(named):
        return given
    if any(given):
        raise ValueError("the sets are given as REAL GENERATED or as --input2 REAL --input1 GENERATED, not both")
    return tuple(named)
