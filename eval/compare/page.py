"""A comparison as one HTML page: the table, the curves and the sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.eval.compare.trials import Curve, table
from fewstep.output.page import write_page


def write_report(path: Path, rows: Sequence[Curve], pictures: Sequence[Path], about: dict[str, Any]) -> None:
    """Write the page whole; `pictures` are PNG files, put inside it. about: model, images, seed, reference."""
    words = (
        f"RMSE per image to {about['reference']} on shared noise, mean of {about['images']} images (seeds from "
        f"{about['seed']}). The best of each column is marked."
    )
    write_page(path, f"Solvers on {about['model']}", [words], [table(rows)], pictures)
