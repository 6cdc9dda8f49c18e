"""Advantages and losses of policy gradients, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewstep import adjoint

REWARDS = torch.tensor([1.0, 2.0, 3.0, 10.0, 10.0, 40.0])


def test_advantages_by_group() -> None:
    """Zero mean in each group, whatever names the groups; unit deviation where it is asked for."""
    A = adjoint.advantages(REWARDS, 3)
    assert torch.allclose(A.view(2, 3).mean(1), torch.zeros(2, dtype=A.dtype), atol=1e-12)
    assert torch.allclose(A.view(2, 3).std(1, correction=0), torch.ones(2, dtype=A.dtype), atol=1e-2)
    assert torch.equal(adjoint.advantages(REWARDS, [7, 7, 7, -1, -1, -1]), A)
    shuffled = torch.tensor([0, 3, 1, 4, 2, 5])
    assert torch.equal(adjoint.advantages(REWARDS[shuffled], [0, 1, 0, 1, 0, 1]), A[shuffled])
    plain = adjoint.advantages(REWARDS, 3, scale="none")
    assert plain.tolist() == [-1, 0, 1, -10, -10, 20]
    batch = adjoint.advantages(REWARDS, 3, scale="batch")
    assert torch.allclose(batch / batch[2], plain)
    assert (
        adjoint.advantages(torch.full((6,), 0.1), 3).abs().max() < 1e-3 and not adjoint.advantages(torch.zeros(4)).any()
    )
    assert torch.allclose(adjoint.advantages(1000 + 1e-3 * REWARDS.double(), 3), A, atol=1e-6)


def test_clipped_surrogate() -> None:
    """No gradient where the ratio has gone far enough in the direction of its advantage; at ratio 1 that of reinforce."""
    A, old = torch.tensor([1.0, -1.0]), torch.zeros(2, 1, dtype=torch.float64)
    for value, wanted in ((0.0, [-0.5, 0.5]), (1.0, [0.0, 0.5 * 2.718281828]), (-1.0, [-0.5 / 2.718281828, 0.0])):
        log_prob = torch.full((2, 1), value, dtype=torch.float64, requires_grad=True)
        adjoint.clipped(log_prob, old, A, (0.2, 0.3)).backward()
        assert torch.allclose(log_prob.grad.flatten(), torch.tensor(wanted, dtype=torch.float64))
    log_prob = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    adjoint.reinforce(log_prob, A).backward()
    assert log_prob.grad.flatten().tolist() == [-0.5, 0.5]
    assert float(adjoint.clipped(old + 3.0, old, A, size=30.0)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: adjoint.advantages(REWARDS[:, None]), r"one number a sample, \(B,\); got \(6, 1\)"),
        (lambda: adjoint.advantages(3.0), "got float"),  # type: ignore[arg-type]
        (lambda: adjoint.advantages(torch.tensor([1.0, float("nan")])), "1 of 2 rewards are not finite"),
        (lambda: adjoint.advantages(REWARDS, 4), "`groups` of 4 do not fit 6 samples"),
        (lambda: adjoint.advantages(REWARDS, [0, 1]), "a group for each of the 6 samples"),
        (lambda: adjoint.advantages(REWARDS, scale="std"), "unknown scale 'std'"),
        (lambda: adjoint.reinforce(torch.zeros(3, 2), REWARDS), "6 advantages for 3 samples"),
        (lambda: adjoint.reinforce(torch.zeros(3), REWARDS), "`log_prob` is"),
        (lambda: adjoint.clipped(torch.zeros(6, 2), torch.zeros(6, 3), REWARDS), "belongs to another trajectory"),
        (lambda: adjoint.clipped(torch.zeros(6, 2), torch.zeros(6, 2), REWARDS, 1.5), "`clip` must be"),
    ],
)
def test_bad_input(call: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()
