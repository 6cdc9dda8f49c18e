"""The processes of one evaluation: one alone, or those that `accelerate launch` or `torchrun` started.

    shared   every process is given the same images, and looks at a part of them
    own      every process is given images of its own, and all of them count
    alone    this process evaluates, and asks no other one

Words that all must have heard go through the group's store: whoever waits there is told which process did not come, whatever
the backend, and an error of one process is raised by all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from fewstep.checks import positive, unknown
from fewstep.eval.gaussian.moments import Moments
from fewstep.eval.gaussian.sketch import Sketch, ranks
from fewstep.eval.gaussian.statistics import FeatureStatistics
from fewstep.eval.group.launching import join, launched, placed
from fewstep.eval.group.meeting import Absent, everybodys, leave_word

T = TypeVar("T")
SHARES = ("shared", "own", "alone")
WAIT = 120.0  # seconds that an evaluation waits for the other processes to begin it
FAILED = "!"  # begins the word of a process that could not go on
REMEDIES = {
    "images": "only a part of each would be looked at: say processes='own' where each has its own, else give all the same",
    "references": "nobody could say what is compared with what: give all the same one",
}
Facts = Mapping[str, str | Callable[[], str]]


class Elsewhere(ValueError):
    """Another process could not go on."""


@dataclass(frozen=True)
class Processes:
    """This process among all of them; every method is called by all, in the same order.

    Attributes:
        device: where this process computes.
        rank, size: its number and how many there are.
        share: "shared", "own" or "alone".
        wait: seconds that `agree` waits for the others.

    What lasts long is followed by a meeting, which waits as long as it takes, and not by a collective, which may give up.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    share: str = "shared"
    wait: float = WAIT

    @classmethod
    def current(cls, device: Any = None, share: Any = "shared", wait: float | None = None) -> Processes:
        """This process alone, or the started group, joined with the backend that fits the device.

        ValueError: another share than there are. TimeoutError: others of those that were started did not come.
        """
        if isinstance(share, Processes):
            return share
        if share not in SHARES:
            raise unknown("`processes`", share, SHARES)
        wait = WAIT if wait is None else positive("wait", wait)
        joined = torch.distributed.is_available() and torch.distributed.is_initialized()
        if share == "alone" or (not joined and launched()[1] == 1):
            return cls(placed(device), share=share, wait=wait)
        if not joined:
            join(device, wait)
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        return cls(placed(device), rank, size, share, wait)

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def own(self) -> bool:
        """Whether images of several processes are added up."""
        return self.share == "own" and self.size > 1

    def numbers(self, positions: Any) -> np.ndarray:
        """What this process's images are called among those of all: its k-th own one is k size + rank, as samplers deal."""
        found = np.asarray(positions, np.int64)
        return found * self.size + self.rank if self.own else found

    def sharing(self) -> Processes:
        """The same for images that all are given, such as the reference."""
        return replace(self, share="shared") if self.share == "own" else self

    def meet(self, word: str = "", late: float | None = None) -> list[str]:
        """Everybody's word, in order of rank, when all have come; late: seconds that are waited, None: as long as it takes.

        Raises:
            Absent: some did not come. Elsewhere: another one could not go on.
        """
        if self.size == 1:
            return [word]
        words = everybodys(self.rank, self.size, word, late)
        for rank, other in enumerate(words):
            if other.startswith(FAILED):
                raise Elsewhere(
                    f"process {rank} could not go on, and so none of them can: {other.removeprefix(FAILED)}"
                )
        return words

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Around an evaluation: an error of one process is raised by all where they meet next, and none waits in vain."""
        try:
            yield
        except BaseException as error:
            if self.size > 1 and not isinstance(error, (Absent, Elsewhere)) and not getattr(error, "told", False):
                leave_word(self.rank, f"{FAILED}{type(error).__name__}: {error}")
                error.told = True  # type: ignore[attr-defined]  # by the innermost of several guards
            raise

    def agree(self, facts: Callable[[], Facts], own: Collection[str] = ()) -> None:
        """Begin an evaluation: all come, and are given the same. facts: made by each for itself; functions only if others are.

        own: names of facts that no two may have alike.

        Raises:
            TimeoutError: some did not come in time. ValueError: other images, another reference, another question.
        """
        made = facts()
        if self.size == 1:
            return
        word = json.dumps({name: fact() if callable(fact) else fact for name, fact in made.items()})
        told = [json.loads(one) for one in self.meet(word, self.wait)]
        for name in dict.fromkeys(name for one in told for name in one):
            values = [one.get(name) for one in told]
            if name not in own:
                other = next((rank for rank, value in enumerate(values) if value != values[0]), None)
                if other is not None:
                    remedy = REMEDIES.get(name, "all must be asked the same")
                    raise ValueError(f"processes 0 and {other} were given different {name}, and {remedy}")
            else:
                require_distinct(values)

    def of_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, for everybody."""
        made: Any = make() if self.first else None
        self.meet()
        found: T = self.broadcast(made)
        return found

    @contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """The block is done by the first process, then by the others (who find what it left: a download, a folder)."""
        if not self.first:
            self.meet()
        yield
        if self.first:
            self.meet()

    @property
    def channel(self) -> torch.device:
        """Where tensors are when they are sent: on the CPU where the group can, else on the device of its backend."""
        config = str(torch.distributed.get_backend_config())
        if "cpu:" in config or self.device.type in config:
            return torch.device("cpu") if "cpu:" in config else self.device
        return placed(None)

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Collectives of objects take the current GPU: this process's."""
        place = self.channel
        with torch.cuda.device(place) if place.type == "cuda" else nullcontext():
            yield

    def gather(self, value: Any) -> list[Any]:
        """Everybody's object, in order of rank, for everybody."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self._sending():
            torch.distributed.all_gather_object(found, value)
        return found

    def broadcast(self, value: Any) -> Any:
        """The first process's object, for everybody."""
        if self.size == 1:
            return value
        box = [value]
        with self._sending():
            torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the processes; `value` is used up."""
        if self.size > 1:
            sent = value.to(self.channel).contiguous()
            torch.distributed.all_reduce(sent)
            return sent.to(value.device)
        return value

    def merged(self, mine: FeatureStatistics) -> FeatureStatistics:
        """What all processes have seen; `mine` is used up."""
        if self.size == 1:
            return mine
        together = FeatureStatistics(mine.dim, mine.sketch.size)
        together.n, together.place = sum(self.gather(mine.n)), mine.place
        together.sketch = self._sketch(mine.sketch)
        if not together.few():
            together.moments = self._moments(mine.all_moments(), together.n)
        return together

    def _sketch(self, mine: Sketch) -> Sketch:
        """The lowest ranks of all; none sends what is above them."""
        together = Sketch(mine.rows.shape[1], mine.size)
        lowest = np.sort(ranks(np.concatenate(self.gather(mine.index))))[: mine.size]
        if len(lowest):
            for index, rows in self.gather(mine.below(lowest[-1])):
                together.add(torch.from_numpy(rows), index)
        together.seen = sum(self.gather(mine.seen))
        return together

    def _moments(self, mine: Moments, n: int) -> Moments:
        """Moments of all about the mean of all: n = sum n_r, m = sum n_r m_r / n, S = sum S_r + n_r (m_r - m)(m_r - m)^T."""
        mean = torch.zeros(mine.dim, dtype=torch.float64, device=self.device)
        scatter = torch.zeros(mine.dim, mine.dim, dtype=torch.float64, device=self.device)
        if mine.n:
            mean, scatter = (part.to(self.device) for part in mine.done())
        center = self.sum(mine.n * mean) / n
        delta = mean - center
        return Moments.of(n, center, self.sum(scatter.addr_(delta, delta, alpha=mine.n)))


def require_distinct(prints: Sequence[str | None]) -> None:
    """ValueError where two processes have the same images of their own; prints: what tells images apart, None of none."""
    for rank, made in enumerate(prints):
        if made is not None and made in prints[:rank]:
            raise ValueError(
                f"processes {prints.index(made)} and {rank} were given the same images under processes='own', which would be "
                "counted twice: say processes='shared', or give each its own (other seeds, another part)"
            )
