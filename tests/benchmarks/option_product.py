"""The product of options of diffusers' classes on wide data: `python tests/benchmarks/option_product.py [--drawn 400]`.

Printed for each class: cells, those that raise or end in NaN, those that are farther than 25 % from the exact answer at 15
evaluations or more, those of them that ddim at the same times is not, and of which entries these are.
"""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections import Counter
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from option_cases import CLASSES, CLASSICAL, Case, classical, drawn, error  # noqa: E402


def kind(case: Case) -> str:
    """What tells this cell from others, in a line."""
    said = {k: v for k, v in case.config.items() if v is not False and v is not None}
    return f"{case.solver[0]} n={case.n} " + " ".join(f"{k}={v}" for k, v in said.items())


@click.command()
@click.option("--drawn", "size", default=0, help="Cells of all options a class; 0: the 22,572 of the classical six.")
@click.option("--every", default=1, show_default=True)
@click.option("--classes", default="")
@click.option("--cells", default=0, help="How many of the bad cells to print.")
def main(size: int, every: int, classes: str, cells: int) -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    total: Counter[str] = Counter()
    for cls in classes.split(",") if classes else CLASSES if size else CLASSICAL:
        cases = drawn(cls, size) if size else [c for c in classical() if c.cls == cls][::every]
        count: Counter[str] = Counter()
        bad: list[str] = []
        entries: Counter[str] = Counter()
        for case in cases:
            try:
                err = error(case)
            except Exception as failure:
                count["raised"] += 1
                bad.append(f"raised {type(failure).__name__}: {failure} | {kind(case)}")
                continue
            if not math.isfinite(err):
                count["nan"] += 1
                bad.append(f"nan | {kind(case)}")
            elif case.n >= 15 and err > 0.25:
                count["far"] += 1
                plain = error(case, ddim=True)
                if plain <= 0.25:
                    count["far, ddim not"] += 1
                    bad.append(f"{err:.2f} for {plain:.2f} | {kind(case)}")
                    entries.update(kind(case).split())
        total.update(count, cells=len(cases))
        print(f"{cls}: {len(cases)} cells, {dict(count)}", flush=True)
        for line in bad[:: max(1, len(bad) // cells)][:cells] if cells else ():
            print("   ", line)
        if entries:
            print("    of", ", ".join(f"{k} {v}" for k, v in entries.most_common(14)))
    print("all:", dict(total))


if __name__ == "__main__":
    main()
