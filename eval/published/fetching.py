"""Files from the net, under their names only when they are whole and, where their sha256 is known, the right ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.error import URLError

import torch

from fewstep.output.files import whole


def fetched(url: str, target: str | os.PathLike[str], sha256: str | None, remedy: str) -> Path:
    """The file at an address, written whole to `target`; its sha256 is checked before it gets its name.

    Raises:
        FileNotFoundError: it cannot be had, or is another one; `remedy` says what to do instead.
    """
    try:
        with whole(target) as temporary:
            torch.hub.download_url_to_file(url, str(temporary), sha256, progress=sys.stderr.isatty())
    except (URLError, OSError, RuntimeError) as error:
        raise FileNotFoundError(f"cannot fetch {url} ({error}). {remedy}") from error
    return Path(target)
