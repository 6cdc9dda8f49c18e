"""Between two guidance scales a table is played where a test at learning time says that it holds, and refused elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from learnt import guided
from pipelines import PIPELINES

from fewstep import Artefact
from fewstep.samplers.artefact.corrections import between
from fewstep.samplers.learned import learn


def with_verdict(holds: bool, **more: Any) -> Artefact:
    made = guided()
    told = {"nfe": 5, "guidance": [1.0, 3.0], "at": 2.0, "nearest": 0.1, "holds": holds, **more}
    return replace(made, model={**made.model, "between": [told]})


def test_what_does_not_hold_is_refused_with_both_errors() -> None:
    made = with_verdict(False, interpolated=0.25)
    with pytest.raises(
        ValueError, match=r"between 1 and 3, where the table between theirs errs by 0.25 where the nearer"
    ):
        made.table(5, 2.0)
    low, high = (made.table(5, g) for g in (1.0, 3.0))
    assert made.table(5, 1.9, outside="clamp") is low and made.table(5, 2.5, outside="clamp") is high
    with pytest.raises(ValueError, match="cannot be made"):
        with_verdict(False).table(5, 2.0)


def test_what_holds_is_played_and_travels() -> None:
    made = Artefact.from_dict(with_verdict(True, interpolated=0.1).to_dict())
    low, high = (made.table(5, g) for g in (1.0, 3.0))
    assert (made.table(5, 2.0).W == between(low, high, 0.5).W).all()


@pytest.mark.slow
def test_learning_tests_it() -> None:
    """One artefact over guidance, with a verdict for the gap; the domain names all scales."""
    pipe, call = PIPELINES["sd"].make()
    del call["guidance_scale"]
    made = learn(
        pipe, nfe=3, method="iia", guidance=[2.0, 2.4], call=call, progress=False, cache=False, seeds=range(16),
        guard_seeds=range(1000, 1008), teacher={"nfe": 40}, batch_size=16,
    )  # fmt: skip
    (told,) = made.model["between"]
    assert (told["nfe"], told["guidance"], told["at"]) == (3, [2.0, 2.4], 2.2)
    assert made.domain()["guidance"]["guidance_scale"] == [2.0, 2.4]
    assert told["holds"] == (told.get("interpolated", torch.inf) <= 1.05 * told["nearest"])
    if told["holds"]:
        made.table(3, 2.2)
    else:
        with pytest.raises(ValueError, match="was tested when"):
            made.table(3, 2.2)
