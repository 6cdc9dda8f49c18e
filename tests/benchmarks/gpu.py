"""All that needs a GPU, measured by one command in at most 8 minutes: `make gpu`, or

    python tests/benchmarks/gpu.py [PART]... [--device cuda] [--minutes 8] [--out gpu.json]

Parts: steps, distances, features, gradients, parallel, learning. Each prints its rows as they come; the file is written after
each of them, so that what was measured is kept if the machine is taken away. What is missing is said and stops no other part.
Without a GPU it runs on the CPU in sizes of a test, which say nothing about speed.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch

sys.path.insert(0, str(Path(__file__).parent))

from gpu_parts.measuring import Missing, Place, Row  # noqa: E402

from fewstep.output.files import write_text  # noqa: E402
from fewstep.version import __version__  # noqa: E402

PARTS = {
    "steps": 45,
    "distances": 75,
    "features": 150,
    "gradients": 75,
    "parallel": 45,
    "learning": 90,
}  # seconds, in turn
GRACE = 10  # seconds that a row which has begun may still take


def measured(name: str, place: Place) -> dict[str, Any]:
    """One part: its rows, seconds, and why it ended early if it did."""
    began, rows, why = time.monotonic(), [], ""
    try:
        with at_most(place.left + GRACE):
            for row in importlib.import_module(f"gpu_parts.{name}").measure(place):
                rows.append(row)
                click.echo(line(row))
                if place.left < 0:
                    raise TimeoutError
    except TimeoutError:
        why = "its time was up"
    except Missing as error:
        why = f"left out: {error}"
    except Exception as error:  # the others go on
        why = f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if why:
        click.echo(f"  {why}")
    return {"seconds": round(time.monotonic() - began, 1), "rows": [row._asdict() for row in rows], "ended": why}


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """TimeoutError within, where that lasts longer."""

    def over(*_: Any) -> None:
        raise TimeoutError

    alarm = getattr(signal, "SIGALRM", None)
    if alarm is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(alarm, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(alarm, before)


def line(row: Row) -> str:
    return f"  {row.what:<62} {number(row.value):>10} {row.unit:<10} {row.note}".rstrip()


def number(value: float | None) -> str:
    """Three digits or four, without a power of ten."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(told: dict[str, Any]) -> str:
    """Everything as one table of a page."""
    lines = ["| | value | unit | |", "|---|--:|---|---|"]
    for name, part in told["parts"].items():
        lines.append(f"| **{name}** | | | {part['ended']} |")
        lines += [f"| {r['what']} | {number(r['value'])} | {r['unit']} | {r['note']} |" for r in part["rows"]]
    about = {k: v for k, v in told.items() if k != "parts"}
    return "\n".join([", ".join(f"{k} {v}" for k, v in about.items()), "", *lines, ""])


def machine(device: torch.device, small: bool) -> dict[str, Any]:
    """What it was measured on."""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else "CPU"
    about = {"device": name, "torch": torch.__version__, "fewstep": __version__, "day": time.strftime("%Y-%m-%d")}
    if cuda:
        about |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {**about, "sizes": "of a test, which say nothing about speed" if small else "full"}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)), metavar="[PART]...")
@click.option("--device", help="Without it a GPU where there is one.")
@click.option("--minutes", default=8.0, show_default=True, help="All parts together end after so many.")
@click.option("--small/--full", "small", default=None, help="Sizes of a test; by itself on a CPU.")
@click.option(
    "--out", default="gpu.json", show_default=True, help="Where the figures are written; the table beside it, .md."
)
def main(parts: tuple[str, ...], device: str | None, minutes: float, small: bool | None, out: str) -> None:
    """Measure PARTS, all of them unless told."""
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cuda" and not torch.cuda.is_available():
        raise click.ClickException(
            f"--device {device}: torch {torch.__version__} sees no GPU; leave it away for the CPU"
        )
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", torch.cuda.current_device())
    small = place.type == "cpu" if small is None else small
    if place.type == "cuda":  # float32 is float32, so that differences are of the methods
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    told: dict[str, Any] = {**machine(place, small), "parts": {}}
    click.echo(", ".join(f"{k} {v}" for k, v in told.items() if k != "parts"))
    end, chosen = time.monotonic() + 60 * minutes, parts or tuple(PARTS)
    for k, name in enumerate(chosen):
        rest = end - time.monotonic()
        share = PARTS[name] / sum(PARTS[other] for other in chosen[k:])
        click.echo(f"{name}, {share * rest:.0f} s")
        if rest < 2 * GRACE and minutes > 0.5:
            told["parts"][name] = {"seconds": 0.0, "rows": [], "ended": f"left out: {minutes:g} minutes were up"}
        else:
            told["parts"][name] = measured(name, Place(place, small, time.monotonic() + share * rest))
        if place.type == "cuda":
            torch.cuda.empty_cache()
        write_text(Path(out), json.dumps(told, indent=1))
        write_text(Path(out).with_suffix(".md"), table(told))
    click.echo(
        f"{out} and {Path(out).with_suffix('.md')}: {sum(len(p['rows']) for p in told['parts'].values())} figures"
    )


if __name__ == "__main__":
    main()
