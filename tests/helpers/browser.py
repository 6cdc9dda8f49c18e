"""A page in a real browser without a window: what it became, and what it said on the console."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Opened:
    """data-* attributes of the document after its scripts ran, lines of the console, and what the test's script found."""

    root: dict[str, str]
    console: list[str]
    result: Any


def opened(page: Path, folder: Path, script: str = "return null", size: tuple[int, int] = (1400, 1000)) -> Opened:
    """Open a page; `script` is the body of an async function, run after the page's own, whose value is the result.

    The page lies in a frame of that size: a window of its own is never narrower than 500 pixels.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)}")
    ours = f"""<script>(async () => {{ {script} }})().catch((error) => ({{failed: String(error)}})).then((value) => {{
        const found = {{root: {{...document.documentElement.dataset}}, value: value ?? null}};
        parent.document.body.dataset.found = JSON.stringify(found); }});</script>"""
    inner = html.escape(page.read_text(encoding="utf-8").replace("</body>", ours + "</body>"))
    frame = f'<iframe width="{size[0]}" height="{size[1]}" style="border: 0" srcdoc="{inner}"></iframe>'
    outer = folder / f"framed_{page.name}"
    outer.write_text(f'<!doctype html><meta charset="utf-8"><body style="margin: 0">{frame}</body>', encoding="utf-8")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}", f"--window-size={size[0]},{size[1]}", "--virtual-time-budget=6000",
            outer.absolute().as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'<body[^>]* data-found="([^"]*)"', done.stdout)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert found, f"the page did not come to its end: {console or done.stderr[-2000:]}"
    told = json.loads(html.unescape(found.group(1)))
    return Opened(told["root"], console, told["value"])
