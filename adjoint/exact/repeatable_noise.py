"""The noise of a run as something that can be asked for again, or given as a tensor that gradients flow to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.samplers.noise.draws import Draw, Noise, drawn_seeds
from fewstep.samplers.noise.sources import source
from fewstep.samplers.schedule.base import NoiseSchedule
from fewstep.samplers.table.tableau import Tableau


def draws_of(tableau: Tableau) -> list[Draw]:
    """Every noise of a table, in the order of drawing."""
    return [draw for row in range(tableau.nfe) for draw in tableau.draws(row)]


def repeatable(
    kind: str, seeds: Sequence[int] | None, generator: Any, like: Tensor, schedule: NoiseSchedule, field: Any = None
) -> Noise:
    """The source of `sample`'s noise with the same values, which says the same when asked again."""
    batch = like.shape[0]
    if kind == "brownian" and seeds is None:
        seeds, generator = drawn_seeds(generator, batch), None
    if seeds is not None:
        return source(kind, seeds, None, batch, schedule.jump_scale, field)
    return Replayed(generator, like, schedule, field)


class Replayed:
    """Noise of generators: drawn once, and made again from the states that they had then."""

    def __init__(self, generator: Any, like: Tensor, schedule: NoiseSchedule, field: Any = None):
        self.schedule, self.field, self.batch = schedule, field, like.shape[0]
        self.several = isinstance(generator, (list, tuple))
        self.generators: list[torch.Generator] = (
            list(generator) if self.several else [_default(like.device) if generator is None else generator]
        )
        self.states: dict[Draw, list[Tensor]] = {}

    def __call__(self, draw: Draw, like: Tensor) -> Tensor:
        """z of like's shape."""
        if draw in self.states:
            return self._drawn([_at(g, s) for g, s in zip(self.generators, self.states[draw], strict=True)], draw, like)
        self.states[draw] = [g.get_state() for g in self.generators]
        return self._drawn(self.generators, draw, like)

    def _drawn(self, generators: list[torch.Generator], draw: Draw, like: Tensor) -> Tensor:
        one = generators if self.several else generators[0]
        return source("independent", None, one, self.batch, self.schedule.jump_scale, self.field)(draw, like)


def _at(generator: torch.Generator, state: Tensor) -> torch.Generator:
    """Another generator in this state."""
    found = torch.Generator(generator.device)
    found.set_state(state)
    return found


def _default(device: torch.device) -> torch.Generator:
    """torch's own generator of a device."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


class Given:
    """Noise handed over as one tensor (draws, B, *shape), in the order of drawing."""

    def __init__(self, tableau: Tableau, z: Tensor, x: Tensor):
        draws = draws_of(tableau)
        wanted = (len(draws), *x.shape)
        if not isinstance(z, Tensor) or tuple(z.shape) != wanted or not z.is_floating_point():
            got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(
                f"`z` holds every noise of the run, a floating tensor of shape {wanted}; got {got}. "
                "adjoint.noise_path makes one from seeds"
            )
        self.place, self.z = {(d.row, d.slot): i for i, d in enumerate(draws)}, z

    def __call__(self, draw: Draw, like: Tensor) -> Tensor:
        """z of like's shape."""
        return self.z[self.place[draw.row, draw.slot]].to(like)
