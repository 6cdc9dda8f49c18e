"""What a benchmark measured, as a table that is printed, and with --keep written where the pages of the site take it from.

    @click.command()
    @kept.keep
    def main(keep: bool) -> None:
        kept.show("adaptive", ("driver", "error"), rows, keep)

A figure of the pages is in docs/measured/NAME.json and comes from there alone. The file says by which command, and when.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[2]
MEASURED, STATE = ROOT / "docs" / "measured", ROOT / ".bench"
sys.path.insert(0, str(ROOT / "docs"))

from pages import table  # noqa: E402

from fewstep.output.files import write_text  # noqa: E402
from fewstep.version import __version__  # noqa: E402

Rows = Sequence[Sequence[str]]
keep = click.option("--keep", is_flag=True, help="Write the table into docs/measured, for the pages.")


def show(name: str, columns: Sequence[str], rows: Rows, keep: bool = False) -> None:
    """Print a table; with `keep`, write it in the place of docs/measured/NAME.json."""
    click.echo(f"{table(columns, rows)}\n")
    if keep:
        write(name, columns, rows)


def write(name: str, columns: Sequence[str], rows: Rows, folder: Path | None = None) -> None:
    """The file whole, with the title that it has. ValueError where the table there is of another shape."""
    path = (folder or MEASURED) / f"{name}.json"
    if not path.exists():
        raise ValueError(f"{path} is not there: begin it with a title, the columns and no rows.")
    told = json.loads(path.read_text(encoding="utf-8"))
    there = told["columns"], len(told["rows"])
    widths = {len(row) for row in rows}
    if list(map(plain, columns)) != list(map(plain, there[0])) or len(rows) < there[1] or widths != {len(columns)}:
        raise ValueError(
            f"{name}: measured were {len(rows)} rows under {list(columns)} (cells a row: {sorted(widths)}), and the file has "
            f"{there[1]} rows under {there[0]}. For another table, give the file those columns and no rows first."
        )
    if not all(isinstance(cell, str) for row in rows for cell in row):
        raise ValueError(f"{name}: a cell is a string, as it is shown; got {rows!r:.200}.")
    how = {"command": command(), "measured": date.today().isoformat()}
    write_text(path, dumped({**told, **how, "columns": list(columns), "rows": [list(row) for row in rows]}))


def plain(column: str) -> str:
    """Without the release of a package, which may be another one each time."""
    return re.sub(r" \d+\.\d+\S*", "", column)


def dumped(told: dict[str, Any]) -> str:
    """JSON with a row a line."""
    head = json.dumps({k: v for k, v in told.items() if k != "rows"}, indent=1, ensure_ascii=False)
    rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in told["rows"])
    return f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'


def command() -> str:
    """How this process was called, from the root of a checkout."""
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT).as_posix() if script.is_relative_to(ROOT) else script.name
    threads = os.environ.get("OMP_NUM_THREADS")
    told = f"OMP_NUM_THREADS={threads} " if threads else ""
    return told + shlex.join(["python", shown, *(word for word in sys.argv[1:] if word != "--keep")])


def state_name(argv: Sequence[str]) -> str:
    """Of the folder below, for a script and its arguments."""
    told = [__version__, *(word for word in argv[1:] if word != "--keep")]
    return f"{Path(argv[0]).stem}-{sha256(shlex.join(told).encode()).hexdigest()[:12]}"


@contextmanager
def resumable() -> Iterator[Path]:
    """A folder for what is done so far: this command finds it again until the block ends well."""
    folder = STATE / state_name(sys.argv)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder)


def short(model: str) -> str:
    """What a table's name calls a model by: `digits` for the embedded one, a folder by its own name."""
    return "digits" if model == "demo" else Path(model).name


def power(value: float, digits: int = 1) -> str:
    """6.5e-4."""
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def few(value: float, digits: int = 2) -> str:
    """That many digits, without a power of ten: 790, 2.2, 0.0038."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:f}".rstrip("0").rstrip(".") if abs(rounded) >= 1e-5 else power(value)


def least_bold(cells: Rows, values: Sequence[Sequence[float]]) -> list[list[str]]:
    """The cells, bold where a column's value is the least, and where the cell reads the same."""
    bold = [list(row) for row in cells]
    for j in range(len(cells[0])):
        column = [row[j] if isfinite(row[j]) else float("inf") for row in values]
        best = cells[column.index(min(column))][j]
        for row in bold:
            if row[j] == best:
                row[j] = f"**{best}**"
    return bold
