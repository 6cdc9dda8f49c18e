"""Class guidance at equal network evaluations on the embedded model: `python tests/benchmarks/class_guidance.py`.

What `examples/guide_classes.py` does, as the table of the pages: images that the embedded classifier reads as the digit asked
for, and its mean probability.
"""

from __future__ import annotations

import sys

import click
import kept
import torch

sys.path.insert(0, str(kept.ROOT / "examples"))

from guide_classes import INTERVAL, compared, read  # noqa: E402

SCALE, SHARE, PULL = 2.0, 1.0, 8.0
SHOWN = {
    "none": "none",
    "cfg": f"`cfg` {SCALE:g}",
    "interval": f"`cfg` {SCALE:g} on ({INTERVAL[0]:g}, {INTERVAL[1]:g}]",
    "apg": f"`apg` {SCALE:g}",
    "cfg_pp": f"`cfg_pp` {SHARE:g}",
    "classifier": "`classifier`, clean, on the network of no class",
}


@click.command()
@click.option("--images", default=100, show_default=True)
@click.option("--evaluations", default=12, show_default=True, help="Network evaluations an image.")
@kept.keep
def main(images: int, evaluations: int, keep: bool) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    cells = {}
    for name, _, _, _, p in compared(images, evaluations, SCALE, SHARE, PULL, "dpmpp_2m", 0):
        right, mean = read(p)
        cells[name] = f"{100 * right:.0f} %, {mean:.2f}"
    kept.show("classes", list(SHOWN.values()), [[cells[name] for name in SHOWN]], keep)


if __name__ == "__main__":
    main()
