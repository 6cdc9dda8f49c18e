"""The pictures: a grid of samples, curves and sheets of images. Files are written whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.lazy import optional
from fewstep.output.files import whole

if TYPE_CHECKING:
    from PIL.Image import Image

INK, PAPER, GAP = "#181818", "white", 4
# Okabe and Ito's colours (told apart with any colour vision), without yellow, which is too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p", "*", "d")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
DODGE = 0.012  # between neighbouring lines with intervals, in parts of x


def checked_suffix(path: Path) -> None:
    """ValueError for a name that ends like no picture that can be written here."""
    from PIL import Image

    Image.init()
    if path.suffix.lower() not in (
        known := {s for s, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    ):
        common = ", ".join(s for s in (".png", ".jpg", ".webp", ".tiff") if s in known)
        raise ValueError(f"{str(path)!r} does not end like a picture; use {common}, or DIR/ for one file an image")


def save_image(image: "Image", path: Path) -> None:
    """Write a picture whole; its format is the suffix."""
    with whole(path) as temporary:
        image.save(temporary)


def tile(images: "Sequence[Image]", columns: int) -> "Image":
    """The images row by row, `columns` in a row, with a thin gap."""
    from PIL import Image

    width, height = (max(size) for size in zip(*(image.size for image in images), strict=True))
    rows = -(-len(images) // columns)
    gap = max(1, width // 28)
    mode = "L" if all(image.mode == "L" for image in images) else "RGB"
    sheet = Image.new(mode, (columns * (width + gap) - gap, rows * (height + gap) - gap), PAPER)
    for k, image in enumerate(images):
        sheet.paste(image, (k % columns * (width + gap), k // columns * (height + gap)))
    return sheet


def image_sheet(rows: "Sequence[tuple[str, Sequence[Sequence[Image]]]]", columns: Sequence[str], path: Path) -> None:
    """Rows of (label, one list of images a column) under column titles; a cell shows as many as fit its strip."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=15)
    side = max(rows[0][1][0][0].size)
    scale = max(1, 56 // side) if side <= 56 else min(1.0, 128 / side)
    shown = max(1, min(len(rows[0][1][0]), 176 // max(1, int(side * scale))))
    strips = [[_strip(cell[:shown], scale) for cell in cells] for _, cells in rows]
    width, height = strips[0][0].size
    left = int(max(font.getlength(label) for label, _ in rows)) + 4 * GAP
    top = 24
    mode = strips[0][0].mode
    sheet = Image.new(mode, (left + len(columns) * (width + 3 * GAP), top + len(rows) * (height + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for j, title in enumerate(columns):
        draw.text((left + j * (width + 3 * GAP) + width // 2, top // 2), title, INK, font, anchor="mm")
    for i, (label, _) in enumerate(rows):
        y = top + i * (height + GAP)
        draw.text((left - 2 * GAP, y + height // 2), label, INK, font, anchor="rm")
        for j, strip in enumerate(strips[i]):
            sheet.paste(strip, (left + j * (width + 3 * GAP), y))
    save_image(sheet, path)


def _strip(images: "Sequence[Image]", scale: float) -> "Image":
    """A few images in one row, small ones enlarged by whole pixels, large ones reduced."""
    from PIL import Image

    resample = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    size = tuple(max(1, round(s * scale)) for s in images[0].size)
    return tile([image.resize((size[0], size[1]), resample) for image in images], len(images))


def _literal(text: str) -> str:
    """Text as it is: no formula between dollar signs, and no leading underscore, which hides a line from the legend."""
    return text.replace("$", r"\$").replace("_", "\u200b_", 1) if text.startswith("_") else text.replace("$", r"\$")


@dataclass(frozen=True)
class Line:
    """A line of a plot: y over x, and how far the interval of each y reaches below and above it."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    below: Sequence[float] | None = None
    above: Sequence[float] | None = None


def plot_lines(
    lines: Sequence[Line], path: Path, title: str, ylabel: str, xlabel: str = "network evaluations", log: bool = True
) -> None:
    """Both axes logarithmic (log=False: only x); the legend follows the last points.

    Lines with intervals stand a little beside each other, so that no bar hides another.
    """
    with optional("a picture of curves"):
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    axes = figure.subplots()
    drawn = []
    for k, line in enumerate(lines):
        bars = None if line.below is None or line.above is None else [line.below, line.above]
        aside = 1 + DODGE * (k - (len(lines) - 1) / 2) if bars else 1.0
        container = axes.errorbar(
            [x * aside for x in line.x],
            line.y,
            yerr=bars,
            color=COLOURS[k % len(COLOURS)],
            marker=MARKERS[k % len(MARKERS)],
            linestyle=DASHES[k // len(COLOURS) % len(DASHES)],
            linewidth=1.8,
            elinewidth=1.2,
            capsize=3.0,
            markersize=6.5,
            markeredgecolor="white",
            markeredgewidth=0.7,
        )
        drawn.append(container.lines[0])
    axes.set(xscale="log", yscale="log" if log else "linear")
    axes.set(xlabel=_literal(xlabel), ylabel=_literal(ylabel), title=_literal(title))
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.set_xticks(sorted({x for line in lines for x in line.x}))
    axes.xaxis.set(major_formatter=plain, minor_locator=NullLocator())
    if log:
        low, high = axes.get_ylim()
        subs = (1, 2, 5) if high > 20 * low else (1, 1.5, 2, 3, 4, 5, 7)
        axes.yaxis.set(major_locator=LogLocator(subs=subs), major_formatter=plain, minor_formatter=NullFormatter())
    axes.grid(True, which="both", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    order = sorted(range(len(lines)), key=lambda k: -lines[k].y[-1])
    axes.legend(
        [drawn[k] for k in order],
        [_literal(lines[k].label) for k in order],
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        handlelength=3,
    )
    with whole(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
