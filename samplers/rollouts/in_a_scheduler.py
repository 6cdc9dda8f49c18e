"""A run in a loop that others own, kept as a Trajectory: the same rows, played by a Scheduler that takes notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewstep.samplers.run.step import State, Step

if TYPE_CHECKING:
    from fewstep.samplers.rollouts.recorded_run import Recorder, Trajectory


class Recording:
    """The part of a Scheduler that keeps its run.

    records: set True before a run, and `trajectory` is that run after it. Costs a latent or two a row, nothing otherwise.
    """

    records: bool = False
    _bound: Any
    _returned: Tensor | None
    _record: Recorder | None = None

    def _taken(self, step: Step, state: State, output: Tensor, noises: Sequence[Tensor]) -> State:
        """The state after a row."""
        if not self.records:
            return step.__call__(state, output, noises)  # step(): torch 2.6 guards its id
        from fewstep.samplers.rollouts.noisy_rows import NoisyRows
        from fewstep.samplers.rollouts.recorded_run import Recorder

        with torch.no_grad():
            if self._record is None:
                if step.index:
                    raise ValueError("`records` was set within a run, whose first rows are lost: set it before the run")
                self._record = Recorder(self._bound.tableau, NoisyRows.of(self._bound.tableau), state)
            return self._record.advance(step, state, output, noises)

    @property
    def trajectory(self) -> Trajectory:
        """The last run, with `records` set before it: what `adjoint.rollout` gives. Replay it by Denoiser.from_pipeline.

        Raises:
            ValueError: no run was recorded, or not to its end; the loop changed states between steps.
        """
        kept = self._record
        if kept is None or self._bound is None or self._returned is None:
            raise ValueError(
                "no run was recorded: set scheduler.records = True before it, and read `trajectory` after it"
            )
        if len(kept.states) <= kept.tableau.nfe:
            raise ValueError(
                f"the run has taken {len(kept.states) - 1} of its {kept.tableau.nfe} steps: read `trajectory` after the last"
            )
        if kept.edited is not None:
            raise ValueError(
                f"the loop changed the state before step {kept.edited} (a callback, a mask, another request), whose density is "
                "then another: record a run that leaves states alone"
            )
        return kept.finished(self._returned.dtype, self._bound.steps[0].post)
