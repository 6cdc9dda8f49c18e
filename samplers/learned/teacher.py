"""Where samples ought to end: long runs of a good solver, with every state on the way, kept on disk.

Along the probability flow y = x / (alpha + sigma) moves over r = sigma / (alpha + sigma) with velocity dy/dr = eps - x0, on
every schedule and up to both its ends. States and velocities at the teacher's nodes give the path anywhere by cubic Hermite
interpolation, so that one run serves every grid a learner looks at.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewstep.files import whole

from ..building import build
from ..registry import SOLVERS, resolve
from ..schedule import Array, NoiseSchedule
from ..tableau import Tableau
from .clock import Clock
from .problem import Part, Problem, squared_errors

Tensor = torch.Tensor
SOLVER, NFE = "dpmpp_3m", 60
CHECKED = 16  # samples on which the teacher is compared with a run of twice its length


def cache_folder() -> Path:
    """$FEWSTEP_CACHE/teachers, or ~/.cache/fewstep/teachers."""
    return Path(os.environ.get("FEWSTEP_CACHE") or Path.home() / ".cache" / "fewstep") / "teachers"


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The states of one part along the flow.

    times: (M + 1,) decreasing. x: (M + 1, B, *shape), states; v: (M, B, *shape), eps - x0 at all but the last. Both are
    read by slices of nodes: tensors, or slices of a file.
    """

    schedule: NoiseSchedule
    times: Array
    x: Any
    v: Any

    @property
    def end(self) -> Tensor:
        """x0, (B, *shape)."""
        return self.state(len(self.times) - 1)

    def state(self, i: int) -> Tensor:
        """The state at node i."""
        found: Tensor = self.x[i : i + 1][0]
        return found

    def velocity(self, i: int) -> Tensor:
        """eps - x0 at node i, which is not the last."""
        found: Tensor = self.v[i : i + 1][0]
        return found

    def x0(self, i: int) -> Tensor:
        """x0 that the network predicted at node i: (x - sigma v) / (alpha + sigma)."""
        return (self.state(i) - float(self._nodes.sigma[i]) * self.velocity(i)) / float(self._size[i])

    @cached_property
    def _nodes(self) -> Any:
        return self.schedule.nodes(self.times)

    @cached_property
    def _size(self) -> Array:
        return np.asarray(self._nodes.alpha + self._nodes.sigma)

    def at(self, t: float) -> Tensor:
        """The state at any time, by Hermite interpolation in r; a node's own state at a node."""
        last = len(self.times) - 1
        i = int(np.clip(np.searchsorted(-self.times, -t, side="right") - 1, 0, last - 1))
        for j in (i, i + 1):
            if t == self.times[j]:
                return self.state(j)
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        r = self._nodes.sigma / self._size
        h = float(r[i + 1] - r[i])
        u = (sigma / (alpha + sigma) - float(r[i])) / h
        y0, y1 = (self.state(j) / float(self._size[j]) for j in (i, i + 1))
        if i + 1 < last:
            weights = (1 + 2 * u) * (1 - u) ** 2, u**2 * (3 - 2 * u), h * u * (1 - u) ** 2, h * u**2 * (u - 1)
            y = weights[0] * y0 + weights[1] * y1 + weights[2] * self.velocity(i) + weights[3] * self.velocity(i + 1)
        else:  # no network call at the end: a parabola
            y = (1 - u**2) * y0 + u**2 * y1 + h * u * (1 - u) * self.velocity(i)
        return y * (alpha + sigma)


class Teacher:
    """Reference runs for a problem, made once for each part.

    Args:
        problem: Problem. solver, nfe: of the reference; options: of the solver. A stochastic solver gives only ends, on
            the seeds' own Brownian paths. cache: folder; None takes `cache_folder()`, False keeps all in memory.

    `key` names everything that decides the runs: model, condition, solver, times, dtype; seeds are added for each part.
    """

    def __init__(
        self,
        problem: Problem,
        solver: str = SOLVER,
        nfe: int = NFE,
        cache: str | os.PathLike[str] | None | bool = None,
        **options: Any,
    ) -> None:
        self.problem, self.nfe = problem, nfe
        self.solver = resolve(solver)[0]
        self.table = self._table(nfe, options)
        self.folder = None if cache is False else cache_folder() if cache in (None, True) else Path(str(cache))
        self._options = options
        self._held: dict[tuple[int, ...], Trajectory | Tensor] = {}

    def _table(self, nfe: int, options: dict[str, Any]) -> Tableau:
        p = self.problem
        entry = SOLVERS[self.solver]
        options = {**({"lower_order_final": False} if "lower_order_final" in entry.options else {}), **options}
        calls = entry.calls(entry.options) if callable(entry.calls) else entry.calls
        grid = Clock(p.schedule, p.t_start, p.t_end).dense(-(-nfe // calls))
        return build(self.solver, p.schedule, None if calls == 1 else nfe, grid, **options)

    @cached_property
    def key(self) -> str:
        """Hash of what every reference run depends on."""
        p = self.problem
        about = (
            p.fingerprint,
            p.condition,
            self.solver,
            sorted(self.table.options.items()),
            str(p.part([0]).x_T.dtype),
        )
        found = hashlib.sha256(repr(about).encode())
        found.update(self.table.W.tobytes() + self.table.times.tobytes())
        return found.hexdigest()[:24]

    @property
    def follows(self) -> bool:
        """Whether there are states along the way: the reference is a flow, with one network call a step."""
        return not self.table.stochastic and max(self.table.groups) == 1

    def path(self, part: Part) -> Trajectory:
        """The states of a part along the reference.

        Raises:
            ValueError: a stochastic reference, whose states between its nodes are not known.
        """
        if not self.follows:
            raise ValueError(
                f"{self.solver!r} draws noise or takes several calls a step, so that only its ends are known: methods that "
                "compare states on the way need a reference along the flow, such as dpmpp_3m"
            )
        found = self._made(part)
        assert isinstance(found, Trajectory)
        return found

    def end(self, part: Part) -> Tensor:
        """x0 of a part, (B, *shape)."""
        if part.seeds in self._ends:
            return self._ends[part.seeds]
        found = self._made(part)
        self._ends[part.seeds] = found.end if isinstance(found, Trajectory) else found
        return self._ends[part.seeds]

    @cached_property
    def _ends(self) -> dict[tuple[int, ...], Tensor]:
        return {}

    def _made(self, part: Part) -> Trajectory | Tensor:
        if part.seeds not in self._held:
            begun = self.problem.spent
            self._held[part.seeds] = self._read(part) or self._run(part)
            self.problem.spent = begun + len(part.seeds) * self.table.nfe  # found on disk or not
        return self._held[part.seeds]

    def _file(self, part: Part) -> Path | None:
        name = hashlib.sha256(repr((self.key, part.seeds)).encode()).hexdigest()[:32]
        return None if self.folder is None else self.folder / f"{name}.safetensors"

    def _read(self, part: Part) -> Trajectory | None:
        """From disk, where it is: the name says everything, and a file is there whole or not at all."""
        path = self._file(part)
        if path is None or not self.follows or not path.exists():
            return None
        from safetensors import safe_open

        try:
            stored = safe_open(path, framework="pt", device=str(part.x_T.device))
            meta = stored.metadata() or {}
            if meta.get("key") != self.key or meta.get("seeds") != repr(part.seeds):
                raise ValueError("it belongs to another model")
            return Trajectory(self.problem.schedule, self.table.times, stored.get_slice("x"), stored.get_slice("v"))
        except Exception as error:
            raise ValueError(
                f"the kept reference run {path} cannot be used: {error}. Delete it, or pass another `cache`"
            ) from error

    def _run(self, part: Part) -> Trajectory | Tensor:
        """One reference run of a part, states and all."""
        if not self.follows:
            return self.problem.draw(self.table, part)
        nodes = self.problem.schedule.nodes(self.table.times)
        x, v = [part.x_T], []

        def keep(step: Any) -> None:
            k = step.index
            alpha, sigma = float(nodes.alpha[k]), float(nodes.sigma[k])
            x0 = step.x0
            v.append((x[-1] - alpha * x0) / sigma - x0)
            x.append(step.x)

        x[-1] = self.problem.draw(self.table, part, callback=keep)
        if not torch.isfinite(x[-1]).all():
            raise ValueError(
                f"the reference run of {self.solver} with {self.nfe} evaluations is not finite; take a larger `nfe`"
            )
        states, velocities = torch.stack(x), torch.stack(v)
        path = self._file(part)
        if path is None:
            return Trajectory(self.problem.schedule, self.table.times, states, velocities)
        from safetensors.torch import save_file

        with whole(path) as temporary:
            tensors = {"x": states.cpu().contiguous(), "v": velocities.cpu().contiguous()}
            save_file(tensors, temporary, {"key": self.key, "seeds": repr(part.seeds)})
        found = self._read(part)
        assert found is not None
        return found

    def self_error(self, seeds: Sequence[int]) -> float:
        """rms difference to a run of twice the length, over the first samples: what the reference can be trusted to."""
        part = self.problem.part(list(seeds)[: min(CHECKED, self.problem.batch_size)])
        longer = self.problem.draw(self._table(2 * self.nfe, self._options), part)
        return float(squared_errors(self.problem.draw(self.table, part), longer).mean().sqrt())
