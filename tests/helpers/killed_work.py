"""A small piece of learning in a process of its own, forked from one that has its imports done: to be killed."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from learned_problems import ring

from fewstep.samplers.learned import learn


def work(cache: str, resume: str | None, out: str) -> None:
    """Learn two tables by two stages into `out`; what went wrong is written to `out`.error."""
    torch.set_num_threads(1)
    how: dict[str, Any] = {"shape": (2,), "dtype": torch.float64, "progress": False, "teacher": {"nfe": 60}}
    try:
        made = learn(ring(), "dpmpp_2m", [3, 4], ["iia", "d_ode"], seeds=range(48), guard_seeds=range(1000, 1048),
                     cache=cache, resume=resume, **how)  # fmt: skip
        made.save(out)
    except Exception as error:
        Path(f"{out}.error").write_text(repr(error), encoding="utf-8")
        os._exit(1)


def begun(cache: Path, resume: Path | None, out: Path) -> BaseProcess:
    """The work, at work."""
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload(["killed_work"])
    process = forked.Process(target=work, args=(str(cache), None if resume is None else str(resume), str(out)))
    process.start()
    return process
