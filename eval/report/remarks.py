"""What a reader has to know beside the values of an evaluation, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fewstep.eval.gaussian.features import Meta, of_published
from fewstep.eval.report.result import Result

# The number of images that papers report FID at, and the dimension of its features: below that a covariance is singular.
USUAL, DIMENSION = 50_000, 2048
_BIASED = ("fid", "sfid")


def notes(results: Sequence[Result], real: Meta | None = None, generated: Meta | None = None) -> list[str]:
    """What a reader has to know beside the values, one sentence each.

    The bias of small samples, numbers of images that differ from what papers use or are not known, lossy files on one
    side only, passed over images, features that were not computed in fp32, in one precision or with the published weights,
    and sides that do not say how theirs were made.
    """
    real, generated = real or Meta(), generated or Meta()
    apart = precision_of(real, generated) if real.precision != generated.precision else ""
    said = [note for result in results for note in _counts(result)]
    if None not in (real.lossy, generated.lossy) and real.lossy != generated.lossy:
        lossy, other = ("reference", "generated") if real.lossy else ("generated", "reference")
        said.append(f"The {lossy} images are lossy files and the {other} ones are not: that alone moves FID by points.")
    for side, meta in (("reference", real), ("generated", generated)):
        if meta.skipped:
            said.append(f"{meta.skipped} unreadable {side} images were passed over.")
    if results and real.extractor and generated.extractor and real.precision != generated.precision:
        said.append(
            f"The reference's features were computed in {real.precision}, the generated ones in {generated.precision}: that "
            "alone moves the value; make both in one precision."
        )
    if results and generated.protocol and real.source and not real.protocol:
        said.append(
            f"The reference does not say how its features were made; they are taken for {generated.protocol!r} ones."
        )
    for result in results:
        if result.extractor == "inception" and result.published is False:
            said.append(
                f"The weights {result.hash} are not from a file known to be the published one: {result.label} has an equal "
                "only under these weights, and is not FID."
            )
    said += _unknown(results, real, generated)
    for precision in dict.fromkeys(r.precision for r in results if r.precision not in ("fp32", apart)):
        said.append(f"Computed in {precision}, not fp32: compare only with values of the same precision.")
    return list(dict.fromkeys(said))


def precision_of(real: Meta, generated: Meta) -> str:
    """In what the features were computed: one word where both sides say the same, "bf16 vs fp32" of a generated one in bf16."""
    if not real.extractor or real.precision == generated.precision:
        return generated.precision
    return f"{generated.precision} vs {real.precision}"


def _unknown(results: Sequence[Result], real: Meta, generated: Meta) -> Iterator[str]:
    """Why a value is not called FID though nothing speaks against it, and what to do."""
    names = [r.label for r in results if not r.extractor or (r.extractor == "inception" and r.published is None)]
    if not names or of_published(real, generated) is not None:
        return
    if real.hash and real.hash == generated.hash:
        yield (
            f"That the weights {generated.hash} are the published ones is not recorded: files of an earlier release do not "
            "say it; write them again with fewstep stats."
        )
        return
    sides = (("reference", real), ("generated", generated))
    silent = [side for side, meta in sides if meta.published is None and (meta.source or meta.extractor)]
    if silent:
        yield (
            f"The {' and the '.join(silent)} statistics do not record that they are of Inception's published weights, so "
            f"{names[0]} is not called FID: write them with fewstep stats, or take a reference by name (fewstep stats "
            "--known)."
        )


def _counts(result: Result) -> Iterator[str]:
    """What the numbers of images mean for a distance between Gaussians of Inception features."""
    if result.metric not in _BIASED or result.extractor != "inception":
        return
    n, label = result.n, result.label
    if n is None:
        yield f"The number of images behind {label} is not recorded: {label} falls with it, so this one has no equal."
    elif n < DIMENSION:
        yield (
            f"{label} of {n} images is far above its value at many (fewer than {DIMENSION} features span no full "
            "covariance): compare it only at equal N, or take fid_inf."
        )
    elif n != USUAL:
        yield f"{label} is of {n} images, papers' of {USUAL}; it falls with N, so compare it only at equal N."
    if result.n_real is not None and result.n_real < DIMENSION:
        yield f"The reference of {label} has {result.n_real} images: its own covariance is not of full rank."
