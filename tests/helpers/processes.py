"""Processes that a launcher starts for a test: a script of Python in each, with the tiny extractor at hand."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from places import HELPERS

PREAMBLE = """
import os, sys
sys.path.insert(0, {helpers!r})
import torch
torch.set_num_threads(1)
import torch.distributed as dist
from tiny_features import EXTRACTOR, REFERENCE
from fewstep import eval as fe
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
IMAGES = torch.randint(0, 255, (300, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
REAL = IMAGES[:120] // 2 + 40
"""


def launched(folder: Path, size: int, script: str, launcher: bool = True, **environment: str) -> str:
    """What the processes print; launcher=False: one process alone, with the environment of one of several."""
    path = folder / "run.py"
    path.write_text(PREAMBLE.format(helpers=str(HELPERS)) + textwrap.dedent(script))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    result = subprocess.run(
        [*(command if launcher else command[:1]), str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout
