"""`fewstep fid`, and `fewstep eval` of images that exist: evaluate two sets, and tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from fewstep.eval.classes.labels import labels_in
from fewstep.eval.commands.one_set import write_statistics
from fewstep.eval.commands.output import check_outputs, evaluating, is_first, metric_options, tell
from fewstep.eval.gaussian.statfile import holds_statistics
from fewstep.eval.images.sources import holds_images, image_set, of_arrays
from fewstep.eval.passes.evaluation import evaluate
from fewstep.output.pictures import save_image, tile


def evaluate_sets(real: str | None, generated: str, metrics: Sequence[str], how: Mapping[str, Any]) -> None:
    """Evaluate two sets and tell; `how` are the options of the command: with save_stats the second is where statistics go."""
    if real is not None and how.get("save_stats"):
        write_statistics(real, generated, how)
        return
    check_outputs(how)
    options = metric_options(how.get("metric_options", ()))
    said = (how.get("call") or {}).get("prompt") or how.get("prompt")
    beside: dict[str, Any] = {"prompts": said} if said else {}
    beside |= {name: labels_in(how[name]) for name in ("labels", "real_labels") if how.get(name)}
    report = evaluate(real, generated, metrics, options=options, **beside, **evaluating(how))
    if is_first(how):
        tell(report, report.table(), how, lambda folder: _sheets(real, generated, how, folder))


def _sheets(real: str | None, generated: str, how: Mapping[str, Any], folder: Path) -> list[Path]:
    """A sheet of the first images of both sides, of those that are images."""
    written = []
    said = {name: how[name] for name in ("key", "limit") if how.get(name)}
    for name, source in (("real", real), ("generated", generated)):
        if source is not None and holds_images(source) and not holds_statistics(source):
            images = image_set(
                source, skip_bad=True, **{k: v for k, v in said.items() if k != "key" or of_arrays(source)}
            )
            ((_, some),) = images.read([range(min(24, images.count or 0))])
            if not some:
                continue
            size = max(max(image.shape[1:]) for image in some)
            scaled = [_enlarged(image, max(1, 96 // size)) for image in some]
            save_image(tile(scaled, 12), folder / f"{name}.png")
            written.append(folder / f"{name}.png")
    return written


def _enlarged(image: Tensor, scale: int) -> Image.Image:
    pixels = image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
