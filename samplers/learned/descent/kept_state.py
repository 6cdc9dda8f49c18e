"""The state of a descent in a file, exactly: what a run that was ended goes on from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from fewstep.output.seal import OPEN, SEAL, check_tensors, whole_tensors
from fewstep.samplers.learned.problem.fingerprint import ANSWERS
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.learned.yardsticks.yardstick import LATENT
from fewstep.samplers.table.tableau import Tableau

Values = dict[str, Tensor]


def place(task: Task, start: Tableau, tag: str, options: Mapping[str, Any], names: Sequence[str]) -> Path | None:
    """Where it is kept; the name says all that a descent depends on: None where the task keeps nothing."""
    if task.store is None:
        return None
    said: tuple[Any, ...] = (tag, options, task.train, task.valid, task.teacher.key, names, start.name, task.stage)
    if not (task.store / ANSWERS).exists():  # which tell for all that lies there
        said = (*said, task.problem.behaviour)
    if task.loss is not LATENT:
        said = (*said, task.loss.content())
    found = hashlib.sha256(repr(said).encode())
    for array in (start.W, start.times, start.model_times):
        found.update(array.tobytes())
    return task.store / f"{tag}-{found.hexdigest()[:24]}.safetensors"


def save(path: Path, values: Mapping[str, Values], numbers: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Named groups of tensors, numbers, and what the optimizer remembers; whole or not at all."""
    state = optimizer.state_dict()
    remembered = {
        f"{i}.{key}": value for i, own in state["state"].items() for key, value in own.items() if value is not None
    }
    groups = {**values, "optimizer": remembered}
    tensors = {f"{name}.{key}": value for name, group in groups.items() for key, value in group.items()}
    about = {"numbers": json.dumps(numbers), "groups": json.dumps(state["param_groups"]), SEAL: OPEN}
    with whole_tensors(path) as temporary:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary, about)


def load(path: Path, optimizer: Optimizer) -> tuple[dict[str, Values], dict[str, Any]]:
    """(groups of tensors, numbers) of `save`; the optimizer remembers again what it did. ValueError for a damaged file."""
    remedy = "Delete it, and the stage begins again"
    check_tensors(path, remedy=remedy, required=True)
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
            about = stored.metadata()
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}. {remedy}") from error
    groups: dict[str, Values] = {}
    for name, value in tensors.items():
        group, key = name.split(".", 1)
        groups.setdefault(group, {})[key] = value
    state: dict[int, Values] = {}
    for name, value in groups.pop("optimizer", {}).items():
        i, key = name.split(".", 1)
        state.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": json.loads(about["groups"])})
    return groups, json.loads(about["numbers"])
