"""A comparison as one HTML page: the table, the curves and the sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.page import Table, write_page

from .compare import Curve


def write_report(path: Path, rows: Sequence[Curve], pictures: Sequence[Path], about: dict[str, Any]) -> None:
    """Write the page whole; `pictures` are PNG files, put inside it. about: model, images, seed, reference."""
    nfes = rows[0].nfes
    best = {(min(range(len(rows)), key=lambda i: rows[i].rmse[j]), j + 2) for j in range(len(nfes))}
    cells = [[row.solver, row.grid, *(f"{e:.5f}" for e in row.rmse)] for row in rows]
    words = (
        f"RMSE per image to {about['reference']} on shared noise, mean of {about['images']} images (seeds from "
        f"{about['seed']}). The best of each column is marked."
    )
    table = Table(["solver", "grid", *map(str, nfes)], cells, names=2, best=frozenset(best))
    write_page(path, f"Solvers on {about['model']}", [words], [table], pictures)
