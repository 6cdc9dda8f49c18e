"""A network of two fields between two laws of data: any two of velocity, score, x0, x1 and z say all the others.

    x = alpha x0 + beta x1 + gamma z,    v = alpha' x0 + beta' x1 + gamma' z,    score = -z / gamma    (all given x)

A row that draws noise wants the velocity and a multiple of the score in one; the row's form says how much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.interpolants.two_sided import Interpolant, Velocity
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.ownership import counted, require_unwritten, version
from fewstep.samplers.run.per_sample import column
from fewstep.samplers.run.step import like_state
from fewstep.samplers.schedule.outputs import score_weight

FIELDS = ("velocity", "score", "x0", "x1", "z")
EDGE = 1e-4  # of time: nearer to the ends x says nothing about z, and what is divided by gamma is asked for here


class TwoFields(Denoiser):
    """fn(x, tau) -> one tensor a field, of x's shape; what a sampler knows of a model between two laws.

    Args:
        fn: maps x (B, *shape) and tau (0-dim tensor, t itself) to a tensor for each field, in a tuple.
        schedule: NoiseSchedule.interpolant(...). fields: what they are, two of "velocity", "score", "x0", "x1" and "z"
            (expected given x), or ("velocity",) alone, for ODEs. On an interpolant without noise there is no score and no z.
        vector_time: as of a Denoiser.

    `denoiser(x, t)` is the velocity; `.both(x, t)` velocity and score. Call it an evaluation whatever the fields.

    Reference: Stochastic Interpolants: A Unifying Framework for Flows and Diffusions; Albergo, Boffi, Vanden-Eijnden; 2023;
    arXiv:2303.08797.
    """

    schedule: Interpolant

    def __init__(
        self,
        fn: Callable[..., Any],
        schedule: Any,
        fields: Sequence[str] = ("velocity", "score"),
        vector_time: bool | str = False,
    ):
        if not isinstance(schedule, Interpolant):
            raise ValueError(
                f"TwoFields belongs to NoiseSchedule.interpolant(); got {type(schedule).__name__}, on which a Denoiser has one"
            )
        fields = (fields,) if isinstance(fields, str) else tuple(fields)
        _check(fields, schedule)
        super().__init__(fn, schedule, Velocity(schedule), vector_time)  # type: ignore[arg-type]
        self.fields, self.asks_rows = fields, True
        # at its very ends x tells nothing of z, or of the other end
        self._edge = EDGE if schedule.noisy and set(fields) != {"velocity", "score"} and len(fields) == 2 else 0.0

    @property
    def has_score(self) -> bool:
        """Whether it can play rows that draw noise."""
        return self.schedule.noisy and len(self.fields) == 2

    def call(self, x: Tensor, tau: Tensor, step: Any = None) -> Tensor:
        """The velocity at model time tau, and as much of the score as the row that asks wants."""
        if not torch.compiler.is_compiling():
            self.nfe += 1
        table = getattr(step, "tableau", None)
        times = None if table is None else table.times[step.index : step.index + 1]
        much = 0.0 if table is None else score_weight(table.forms[step.index])
        v, score = self._both(counted(x), tau, times, scored=bool(much))
        return v if score is None else v + much * score

    def both(self, x: Tensor, t: float) -> tuple[Tensor, Tensor | None]:
        """(velocity, score) at time t; no score of a single field."""
        self.nfe += 1
        tau = torch.tensor(float(t), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
        return self._both(x, tau.to(x.device), np.array([float(t)]), scored=self.has_score)

    def _both(self, x: Tensor, tau: Tensor, times: Any, scored: bool) -> tuple[Tensor, Tensor | None]:
        if scored and not self.has_score:
            raise ValueError(missing())
        if times is None:
            times = np.atleast_1d(tau.detach().cpu().double().numpy())
        if self._edge:
            times, tau = np.clip(times, self._edge, 1 - self._edge), tau.clamp(self._edge, 1 - self._edge)
        before = version(x)
        answer: Any = self.fn(x, tau)
        found = (answer,) if isinstance(answer, Tensor) else tuple(answer)
        if len(found) != len(self.fields):
            raise ValueError(
                f"fn returned {len(found)} tensors for the fields {', '.join(self.fields)}: return one for each, (v, score)"
            )
        require_unwritten(x, before)
        given = dict(zip(self.fields, (like_state(one, x) for one in found), strict=True))
        return self._converted(x, given, self.schedule.weights(times), scored)

    def _converted(
        self, x: Tensor, given: dict[str, Tensor], weights: Any, scored: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Velocity and score of any two fields, by one 3 x 3 system a time; what is not asked for is not computed."""
        (a, da), (b, db), (g, dg) = weights
        if "velocity" in given and (not scored or "score" in given):
            return given["velocity"], given.get("score") if scored else None
        rows: dict[str, tuple[Any, ...]] = {"x": (a, b, g), "velocity": (da, db, dg)}
        one, zero = np.ones_like(a), np.zeros_like(a)
        rows |= {"x0": (one, zero, zero), "x1": (zero, one, zero), "z": (zero, zero, one)}
        known = {"x": x, **{("z" if name == "score" else name): value for name, value in given.items()}}
        # of a score as z: z = -gamma score
        scale = {name: -g if name == "z" and "score" in given else one for name in known}
        if not self.schedule.noisy:
            rows = {name: row[:2] for name, row in rows.items()}
            del known["x"]  # which both ends say
        system = np.stack([np.stack(np.broadcast_arrays(*rows[name]), -1) for name in known], -2)
        wanted = {"velocity": rows["velocity"], **({"score": (zero, zero, -one / g)} if scored else {})}
        out = []
        for row in wanted.values():
            target = np.stack(np.broadcast_arrays(*row), -1)[..., None]
            solved = np.linalg.solve(np.swapaxes(system, -1, -2), target)[..., 0]
            terms = [
                _level(solved[..., i] * scale[name], x) * value.to(x.dtype if x.is_floating_point() else None)
                for i, (name, value) in enumerate(known.items())
            ]
            out.append(sum(terms[1:], terms[0]))
        return out[0], out[1] if scored else None


def _level(values: Any, x: Tensor) -> Any:
    values = np.asarray(values, np.float64)
    return float(values.flat[0]) if values.size == 1 else column(values, x)


def missing() -> str:
    """What a single field lacks where noise is drawn."""
    return (
        "noise between two laws of data needs the score beside the velocity, and this denoiser has one field: give two, "
        'TwoFields(fn, schedule, ("velocity", "score")), or take an ODE solver'
    )


def _check(fields: tuple[str, ...], schedule: Interpolant) -> None:
    """ValueError for fields that do not say where x goes."""
    if any(name not in FIELDS for name in fields):
        raise ValueError(f"`fields` must be of {', '.join(FIELDS)}; got {', '.join(map(str, fields))}")
    if len(set(fields)) != len(fields) or len(fields) not in (1, 2):
        raise ValueError(f"`fields` must be two different ones, or the velocity alone; got {', '.join(fields)}")
    if len(fields) == 1 and fields != ("velocity",):
        raise ValueError(
            f"{fields[0]!r} alone does not say where x goes between two laws of data: give a second field beside it, such as "
            '("x0", "x1"), or the velocity'
        )
    if set(fields) == {"score", "z"}:
        raise ValueError('"score" and "z" are the same field: give the velocity or an end beside one of them')
    if not schedule.noisy and set(fields) & {"score", "z"}:
        raise ValueError(f'an interpolant with gamma="none" has no z and no score; got fields {", ".join(fields)}')
