"""`adjoint.cost`: what it says before a run is what the run then does, counted in the run itself."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from adjoints import BATCH, SIZE, Guided, loss
from torch import Tensor

from fewstep import adjoint
from fewstep.adjoint.exact.rows import Rows
from fewstep.samplers import Denoiser, NoiseSchedule

SHAPE = (BATCH, SIZE)
SOLVERS = ("ddim", "dpmpp_3m", "etd_rk3", "dpmpp_2m_sde", "bdia", "rex")


class Counted:
    """A denoiser whose calls, their gradients and their inputs are counted."""

    def __init__(self, watching: bool = True) -> None:
        self.watching = watching  # over inputs, which keeps them alive
        self.problem = Guided(dtype=torch.float32)
        self.pulled = 0
        self.inputs: list[Tensor] = []
        inner = self.problem.denoiser
        self.denoiser = Denoiser(self.network, inner.schedule, inner.prediction)

    def network(self, x: Tensor, tau: Tensor) -> Tensor:
        if self.watching:
            self.inputs.append(x)
        output = self.problem.predict(x, tau)
        if output.requires_grad:
            output.register_hook(self.seen)
        return output

    def seen(self, gradient: Tensor) -> None:
        self.pulled += 1

    def run(self, solver: str, nfe: int, method: str, **how: Any) -> Tensor:
        x = self.problem.x_T.requires_grad_()
        seeds = list(range(BATCH))
        return adjoint.sample(self.denoiser, x, solver, nfe, method=method, t_end=1e-3, noise_seeds=seeds, **how)


@pytest.mark.filterwarnings("ignore:the gradient of adjoint")
@pytest.mark.parametrize("method", adjoint.METHODS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_counts_are_those_of_the_run(solver: str, method: str) -> None:
    real = Counted()
    try:
        told = adjoint.cost(real.denoiser, SHAPE, solver, 7, method, t_end=1e-3)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)[:20].replace("(", r"\(")):
            real.run(solver, 7, method)
        return
    assert real.denoiser.nfe == 0
    x0 = real.run(solver, 7, method)
    assert real.denoiser.nfe == told.nfe == 7
    if method != "direct":
        assert len(kept_by(x0)) == told.states and told.bytes >= told.states * 4 * BATCH * SIZE
        assert told.calls == 1
    else:
        assert len({x.data_ptr() for x in real.inputs}) == told.states == told.calls == 7
    loss(x0).backward()
    assert (real.denoiser.nfe, real.pulled) == (told.evaluations, told.gradients)


def kept_by(x0: Tensor) -> set[int]:
    """Storages that the sample's own node keeps."""
    node = x0.grad_fn
    while node is not None and not hasattr(node, "saved_tensors"):
        node = node.next_functions[0][0]
    return {t.untyped_storage().data_ptr() for t in node.saved_tensors} if node is not None else set()


@pytest.mark.parametrize(
    ("method", "slots"), [("checkpoint", None), ("segments", None), ("segments", 2), ("revolve", None), ("revolve", 1)]
)
@pytest.mark.parametrize("n", [1, 2, 9, 20])
def test_the_states_made_anew(method: str, slots: int | None, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted as the inputs of rows that are alive when a row is gone back over."""
    alive: list[weakref.ref[Tensor]] = []
    most = [0]
    advance, pull = Rows.advance, Rows.pull

    def advanced(rows: Rows, k: int, state: Any) -> Any:
        after = advance(rows, k, state)
        alive.append(weakref.ref(after.input))
        return after

    def pulled(rows: Rows, k: int, before: Any, after: Any, *rest: Any) -> Any:
        most[0] = max(most[0], sum(ref() is not None for ref in alive))
        return pull(rows, k, before, after, *rest)

    real = Counted(watching=False)
    told = adjoint.cost(real.denoiser, SHAPE, "ddim", n, method, slots=slots)
    x0 = real.run("ddim", n, method, slots=slots)
    monkeypatch.setattr(Rows, "advance", advanced)
    monkeypatch.setattr(Rows, "pull", pulled)
    loss(x0).backward()
    assert most[0] == told.remade


@pytest.mark.parametrize("method", ["checkpoint", "direct", "segments"])
def test_truncated(method: str) -> None:
    real = Counted()
    told = adjoint.cost(real.denoiser, SHAPE, "dpmpp_2m", 8, method, last=3, t_end=1e-3)
    loss(real.run("dpmpp_2m", 8, method, last=3)).backward()
    assert (real.denoiser.nfe, real.pulled) == (told.evaluations, told.gradients) and told.gradients == 3


def test_bytes_are_those_of_the_shape_and_the_type() -> None:
    denoiser = Guided().denoiser
    for dtype, size in ((torch.float64, 8), (torch.float32, 4), (torch.float16, 4)):
        assert adjoint.cost(denoiser, (2, 3, 5), "ddim", 6, dtype=dtype).bytes == 6 * 30 * size
    table = adjoint.cost(denoiser, (2, 3, 5), "ddim", 20, "segments")
    assert table.bytes == (table.states + 2 * table.remade) * 30 * 4


def test_all_methods_in_a_table() -> None:
    table = adjoint.cost(Guided().denoiser, SHAPE, "dpmpp_2m_sde", 8, None)
    assert set(table.costs) | set(table.refused) == set(adjoint.METHODS)
    assert {"reversible", "adjoint_dpm"} == set(table.refused)
    text = str(table)
    assert "checkpoint: 16 network evaluations (8 for the sample)" in text and "reversible: not here." in text
    assert [c.method for c in table][:2] == ["checkpoint", "direct"] and table["direct"].calls == 8


def test_activations_are_measured_on_request() -> None:
    """tanh keeps its result, the product with weights its input: two tensors of the call, and no weights."""
    weights = torch.randn(SIZE, 100, requires_grad=True)
    back = torch.randn(100, SIZE)
    denoiser = Denoiser(lambda x, tau: torch.tanh(x @ weights) @ back, NoiseSchedule.vp_linear())
    told = adjoint.cost(denoiser, SHAPE, "ddim", 4, "direct", measure=True)
    assert told.call_bytes == BATCH * 100 * 4 and denoiser.nfe == 2
    assert "4 network calls, 4.688 KiB" in str(told)
    assert adjoint.cost(denoiser, SHAPE, "ddim", 4).call_bytes is None


def test_numbers_of_a_table_and_means() -> None:
    problem = Guided()
    free = adjoint.free(problem.denoiser, "unipc", 5)
    told = adjoint.cost(problem.denoiser, SHAPE, free, method="checkpoint")
    assert told.gradients == 5 and free.W.grad is None
    reverting = Denoiser(lambda x, tau: 0.1 * x, NoiseSchedule.mean_reverting())
    assert adjoint.cost(reverting, SHAPE, "euler_maruyama", 5, mu=torch.zeros(SHAPE)).evaluations == 10


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"solver": "rk45"}, "chooses its steps"),
        ({"method": "backwards"}, "unknown method"),
        ({"last": "random"}, "random"),
        ({"shape": (0, 3)}, "`shape`"),
        ({"slots": 2}, "`slots`"),
        ({"solver": "dpmpp_2m", "method": "reversible"}, "cannot be undone"),
        ({"solver": "ddim", "nonsense": 1}, "nonsense"),
    ],
)
def test_bad_input(how: dict[str, Any], match: str) -> None:
    given = {"shape": SHAPE, "solver": "ddim", "nfe": 5, **how}
    with pytest.raises(ValueError, match=match):
        adjoint.cost(Guided().denoiser, given.pop("shape"), given.pop("solver"), given.pop("nfe"), **given)
