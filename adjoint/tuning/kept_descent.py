"""Where a descent is, on disk: weights, their average and best, what Adam remembers, in one sealed file, written whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fewstep.output.seal import AGAIN, OPEN, SEAL, Damaged, check_tensors, whole_tensors

MOMENTS = ("exp_avg", "exp_avg_sq")
REMEDY = "Delete it, and the run begins again"


class Kept:
    """The file of a run in a folder; name: hash of everything that decides the run."""

    def __init__(self, folder: Path, name: str, writes: bool = True) -> None:
        self.path, self.writes = folder / f"tuning-{name}.safetensors", writes

    def write(self, run: Any) -> None:
        """Where `run` is."""
        if not self.writes:
            return
        tensors: dict[str, Tensor] = {}
        for kind, values in (("w", run.trained.values()), ("m", run.average.values), ("best", run.best)):
            tensors |= {f"{kind}.{i}": v.detach().cpu().contiguous().clone() for i, v in enumerate(values)}
        for i, p in enumerate(run.trained.params):
            for moment in MOMENTS:
                if moment in (own := run.optimizer.state.get(p, {})):
                    tensors[f"{moment}.{i}"] = own[moment].detach().cpu().contiguous()
        moved = next((float(own["step"]) for own in run.optimizer.state.values()), 0.0)
        told = {
            "step": run.step, "moved": moved, "averaged": run.average.steps, "best": run.best_score, "base": run.base_score,
            "spent": run.spent, "losses": run.losses,
        }  # fmt: skip
        with whole_tensors(self.path) as part:
            save_file(tensors, part, {SEAL: OPEN, "told": json.dumps(told)})

    def found(self, run: Any) -> bool:
        """Whether there is a file of this run, from which it goes on then. Damaged where it is not what was written."""
        if not self.path.is_file():
            return False
        check_tensors(self.path, remedy=REMEDY, required=True)
        try:
            with safe_open(self.path, "pt") as file:
                told = json.loads(file.metadata()["told"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise Damaged(f"{self.path} cannot be read: {error}. {REMEDY}; or {AGAIN.lower()}") from error
        params = run.trained.params
        run.trained.put([tensors[f"w.{i}"].to(p) for i, p in enumerate(params)])
        run.average.values = [tensors[f"m.{i}"].to(p.device) for i, p in enumerate(params)]
        run.best = [tensors[f"best.{i}"].to(p.device) for i, p in enumerate(params)]
        for i, p in enumerate(params):
            if f"{MOMENTS[0]}.{i}" in tensors:
                own = {moment: tensors[f"{moment}.{i}"].to(p.device) for moment in MOMENTS}
                run.optimizer.state[p] = {"step": torch.tensor(told["moved"]), **own}
        run.step, run.average.steps, run.spent = told["step"], told["averaged"], told["spent"]
        run.best_score, run.base_score, run.losses = told["best"], told["base"], list(told["losses"])
        return True
