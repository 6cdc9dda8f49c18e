"""Where samples ought to end: long runs of a good solver, with every state on the way, kept on disk.

One run serves every grid a learner looks at (trajectory.py), and every batch: it is looked up by seed.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.samplers.building.compiling import build
from fewstep.samplers.building.names import solver_of
from fewstep.samplers.building.solver_entry import SOLVERS
from fewstep.samplers.grids.coordinate import Coordinate
from fewstep.samplers.learned.problem.fingerprint import Answers, steady
from fewstep.samplers.learned.problem.kept_runs import file_of, folder_of, limit, made_room, read, write
from fewstep.samplers.learned.problem.problem import Part, Problem, squared_errors
from fewstep.samplers.learned.problem.threads import surviving
from fewstep.samplers.learned.problem.trajectory import Rows, Trajectory
from fewstep.samplers.table.tableau import Tableau

Measure = Callable[[Problem, Part, Tensor, Tensor], Tensor]
SOLVER, NFE = "dpmpp_3m", 60
CHECKED = 16  # samples on which the teacher is compared with a run of twice its length


class Teacher:
    """Reference runs for a problem, made once for each part.

    Args:
        problem: Problem. solver, nfe: of the reference; options: of the solver. A stochastic solver gives only ends, on
            the seeds' own Brownian paths. cache: folder; None takes `cache_folder()`, False keeps all in memory.
        paths: seeds whose states on the way are read; of others only the end is kept. None: all.

    `key` names what decides the runs: weights, condition, solver, times, dtype; seeds are added for each part. A run is found
    for a network that answers as its own did, but for rounding; nothing is kept of one that does not answer the same twice.
    """

    def __init__(
        self,
        problem: Problem,
        solver: str = SOLVER,
        nfe: int = NFE,
        cache: str | os.PathLike[str] | None | bool = None,
        paths: Collection[int] | None = None,
        **options: Any,
    ) -> None:
        self.problem, self.nfe = problem, nfe
        entry, _ = solver_of(solver)
        self.solver, options = entry.name, {**dict(entry.bound), **options}
        self.table = self._table(nfe, options)
        self.folder = folder_of(cache)
        self._options = options
        self._paths = None if paths is None else frozenset(paths)
        self._own: set[Path] = set()  # files of these runs
        self._held: dict[tuple[int, ...], Trajectory | Tensor] = {}

    def _table(self, nfe: int, options: dict[str, Any]) -> Tableau:
        p = self.problem
        entry = SOLVERS[self.solver]
        options = {**({"lower_order_final": False} if "lower_order_final" in entry.options else {}), **options}
        calls = entry.calls(entry.options) if callable(entry.calls) else entry.calls
        grid = Coordinate(p.schedule, p.t_start, p.t_end).dense(-(-nfe // calls))
        return build(self.solver, p.schedule, None if calls == 1 else nfe, grid, **options)

    @cached_property
    def key(self) -> str:
        """Hash of what every reference run depends on, but for what the network answers."""
        p, table = self.problem, self.table
        options, dtype = sorted(table.options.items()), str(p.part([0]).x_T.dtype)
        numbers = steady((table.W.tobytes(), table.times.tobytes()))
        about = (p.weights, p.condition, self.solver, options, dtype, table.W.shape, numbers)
        return hashlib.sha256(repr(about).encode()).hexdigest()[:24]

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
        if not isinstance(found, Trajectory):  # somebody asks for the way of samples that it was not foreseen for
            found = self._held[part.seeds] = self._run(part, whole=True)
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

    def prepare(self, parts: Sequence[Part]) -> None:
        """Make the runs of these parts; smaller parts of the same seeds are looked up in them afterwards."""
        for part in parts:
            self._made(part)

    def _whole(self, part: Part) -> bool:
        """Whether the states on the way are kept of a part."""
        return self.follows and (self._paths is None or self._paths.issuperset(part.seeds))

    def _made(self, part: Part) -> Trajectory | Tensor:
        if part.seeds not in self._held and all(seed in self._where for seed in part.seeds):
            self._held[part.seeds] = self._picked(part.seeds)
        if part.seeds not in self._held:
            begun = self.problem.spent
            whole, kept = self._whole(part), self._read(part)
            self._held[part.seeds] = self._run(part, whole) if kept is None else kept
            self.problem.spent = begun + len(part.seeds) * self.table.nfe  # found on disk or not
            self._where.update({seed: (part.seeds, row) for row, seed in enumerate(part.seeds)})
        return self._held[part.seeds]

    @cached_property
    def _where(self) -> dict[int, tuple[tuple[int, ...], int]]:
        """Seed -> part and row in it."""
        return {}

    def _picked(self, seeds: Sequence[int]) -> Trajectory | Tensor:
        """Samples out of parts that were run."""
        rows: dict[tuple[int, ...], list[int]] = {}
        for seed in seeds:
            rows.setdefault(self._where[seed][0], []).append(self._where[seed][1])
        whole_parts = [self._held[key] for key in rows]
        order = [seed for key, picked in rows.items() for seed in (key[row] for row in picked)]
        back = [order.index(seed) for seed in seeds]
        if any(isinstance(part, Tensor) for part in whole_parts):
            ends = [part if isinstance(part, Tensor) else part.end for part in whole_parts]
            return torch.cat([end[picked] for end, picked in zip(ends, rows.values(), strict=True)])[back]
        picks = list(rows.values())
        paths = [part for part in whole_parts if isinstance(part, Trajectory)]
        x, v = (Rows([getattr(path, name) for path in paths], picks, back) for name in ("x", "v"))
        return Trajectory(self.problem.schedule, self.table.times, x, v)

    def _file(self, part: Part) -> tuple[Path, tuple[str, tuple[int, ...], Answers]] | None:
        """Where a run is kept, and what is written into it to know it by."""
        if self.folder is None or self.problem.behaviour is None or not self.follows:
            return None
        known = self.key if self._whole(part) else f"{self.key}-end", part.seeds, self.problem.behaviour
        return file_of(self.folder, *known), known

    def _read(self, part: Part) -> Trajectory | Tensor | None:
        """From disk, where it is: a file is there whole or not at all."""
        place = self._file(part)
        if place is None or not place[0].exists():
            return None
        self._own.add(place[0])
        states, velocities = read(place[0], *place[1], part.x_T.device)
        if not self._whole(part):
            end: Tensor = states[0:1][0]
            return end
        return Trajectory(self.problem.schedule, self.table.times, states, velocities)

    def _run(self, part: Part, whole: bool) -> Trajectory | Tensor:
        """One reference run of a part, states and all where they are read."""
        if not whole:
            end = self.problem.draw(self.table, part)
            self._sane(end)
            self._kept(part, end[None], end[None, :0])
            return end
        self.problem.spent += len(part.seeds) * self.table.nfe
        p = self.problem
        runs = surviving(p.halve, lambda: p.threads.map(self._followed, p.pieces(part)))
        states, velocities = (torch.cat(pieces, 1) for pieces in zip(*runs, strict=True))
        self._sane(states[-1])
        if self._whole(part) and self._kept(part, states, velocities):
            found = self._read(part)
            assert isinstance(found, Trajectory)
            return found
        return Trajectory(self.problem.schedule, self.table.times, states, velocities)

    def _sane(self, end: Tensor) -> None:
        """ValueError where a flow's run is not finite."""
        if self.follows and not torch.isfinite(end).all():
            raise ValueError(
                f"the reference run of {self.solver} with {self.nfe} evaluations is not finite; take a larger `nfe`"
            )

    def _kept(self, part: Part, states: Tensor, velocities: Tensor) -> bool:
        """Whether a run was written to disk: where there is a folder, and these runs alone do not go beyond its limit."""
        place = self._file(part)
        if place is None:
            return False
        size = sum(v.numel() * v.element_size() for v in (states, velocities))
        if not made_room(place[0].parent, size, self._own):
            warnings.warn(
                f"these reference runs take more than the {limit() / 2**30:.3g} GiB that their cache may: the next "
                f"{size / 2**30:.3g} GiB stay in memory. $FEWSTEP_CACHE_LIMIT=100GB allows more",
                stacklevel=2,
            )
            return False
        write(place[0], *place[1], states, velocities)
        self._own.add(place[0])
        return True

    def _followed(self, part: Part) -> tuple[Tensor, Tensor]:
        """States (M + 1, B, *shape) and velocities (M, B, *shape) of one run in the caller's thread."""
        nodes = self.problem.schedule.nodes(self.table.times)
        x, v = [part.x_T], []

        def keep(step: Any) -> None:
            k = step.index
            alpha, sigma = float(nodes.alpha[k]), float(nodes.sigma[k])
            x0 = step.x0
            v.append((x[-1] - alpha * x0) / sigma - x0)
            x.append(step.x)

        x[-1] = self.problem.drawn(self.table, part, callback=keep)
        return torch.stack(x), torch.stack(v)

    def self_error(self, seeds: Sequence[int], measure: Measure | None = None) -> float:
        """rms difference to a run of twice the length, over the first samples: what the reference can be trusted to.

        measure: (problem, part, x0, reference) -> (B,), in the place of mean squares.
        """
        part = self.problem.part(list(seeds)[: min(CHECKED, self.problem.batch_size)])
        longer = self.problem.draw(self._table(2 * self.nfe, self._options), part)
        end = self.end(part)
        found = squared_errors(end, longer) if measure is None else measure(self.problem, part, end, longer)
        return float(found.mean().sqrt())
