"""Samples drawn once: by which solver, at what cost, and kept in a folder where there is one.

    FOLDER/drawn-NAME.safetensors    NAME: digest of pipeline, call, seeds, solver, nfe, grid and options

so that an interrupted comparison goes on where it stopped, and one of more solvers draws only these.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fewstep.eval.images.generated import Generated
from fewstep.eval.images.image_sets import digest
from fewstep.eval.passes.answers import check_answers
from fewstep.eval.report.curve_points import Steps
from fewstep.output.seal import OPEN, SEAL, check_tensors, whole_tensors
from fewstep.samplers.artefact.learned_table import weights_of_result
from fewstep.samplers.pipeline.contenders import Contender
from fewstep.samplers.pipeline.source import Batch, Source
from fewstep.samplers.table.tableau import Tableau
from fewstep.version import __version__

FAR, NEAR = 3.0, 0.5  # in half log-SNR: where an end is drawn whose own is infinite
REMEDY = "Remove it: these samples are then drawn again"


class Drawn(NamedTuple):
    """Samples x0 (B, *shape) on the CPU, and what each of them cost.

    nfe: evaluations of the whole network, a mean over the samples; less than asked for where blocks are left out. seconds: of
    a sample, decoding apart. memory: most bytes at once on a GPU, the network's own among them. held: tensors of the sample's
    size that the solver carries from row to row, its state among them. steps: of a table. None where nobody counts.
    """

    x0: Tensor
    nfe: float
    seconds: float | None = None
    memory: int | None = None
    held: int | None = None
    steps: Steps | None = None


def drawn(batches: Sequence[Batch], how: Mapping[str, Any]) -> Drawn:
    """All batches by one solver at one number of evaluations."""
    number, device = sum(len(batch.seeds) for batch in batches), batches[0].x_T.device
    counted = device.type == "cuda"
    if counted:
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    runs = [batch.run(**how) for batch in batches]
    seconds = (time.perf_counter() - began) / number
    memory = torch.cuda.max_memory_allocated(device) if counted else None
    table = runs[0][1].tableau
    nfe = table.cost if table is not None else sum(info.nfe * len(x0) for x0, info in runs) / number
    held = None if table is None else table.registers
    return Drawn(
        torch.cat([x0 for x0, _ in runs]), nfe, seconds, memory, held, None if table is None else steps_of(table)
    )


def steps_of(table: Tableau) -> Steps:
    """lam of every evaluation and of the end, and the weights of their outputs in the result.

    An end of pure noise or without any is as far from its neighbour as that from the next one, at most FAR.
    """
    with np.errstate(divide="ignore"):
        lam = np.log(table.nodes.alpha / table.nodes.sigma)
    for end, near, next_one in ((0, 1, 2), (-1, -2, -3)) if len(lam) > 2 else ():
        if not np.isfinite(lam[end]):
            gap = abs(lam[near] - lam[next_one]) if np.isfinite(lam[next_one]) else FAR
            lam[end] = lam[near] + (1 if end else -1) * min(FAR, max(gap, NEAR))
    weights = weights_of_result(table)
    found = weights.reshape(len(weights), -1).mean(1)
    return Steps(tuple(np.nan_to_num(lam, posinf=FAR, neginf=-FAR).tolist()), tuple(found.tolist()))


class Kept:
    """The folder of what a source has drawn. ValueError: another network drew what lies there."""

    def __init__(self, folder: Path, source: Source, seeds: Sequence[int]) -> None:
        first = Generated(source, "ddim", 1, seeds=seeds[:1])
        self.folder, self.owner = folder, digest(__version__, first.fingerprint)
        check_answers(folder / f"drawn-{self.owner}-answers.npz", first.answers())

    def of(self, seeds: Sequence[int], how: Mapping[str, Any]) -> Path:
        """Where the samples of a run are, or will be."""
        told = {**how, "solver": Contender(how["solver"]).identity}
        name = digest(self.owner, [int(seed) for seed in seeds], json.dumps(told, sort_keys=True, default=str))
        return self.folder / f"drawn-{name}.safetensors"

    def read(self, path: Path) -> Drawn | None:
        """What lies there; None where nothing does. ValueError: it was changed since."""
        if not path.exists():
            return None
        check_tensors(path, remedy=REMEDY, required=True)
        with safe_open(path, framework="pt") as stored:
            told = json.loads(stored.metadata()["cost"])
            steps = told.pop("steps")
            return Drawn(stored.get_tensor("x0"), **told, steps=None if steps is None else Steps(*map(tuple, steps)))

    def write(self, path: Path, found: Drawn) -> None:
        cost = {name: value for name, value in found._asdict().items() if name != "x0"}
        cost["steps"] = None if found.steps is None else [found.steps.lam, found.steps.weights]
        with whole_tensors(path) as part:
            save_file({"x0": found.x0.contiguous()}, part, {SEAL: OPEN, "cost": json.dumps(cost)})
