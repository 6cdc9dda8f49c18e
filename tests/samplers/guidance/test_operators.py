"""Operators: transposes are adjoints, A A^T is what it is said to be, and the solver of systems is exact."""

import copy
import pickle

import pytest
import torch

from fewstep.samplers import guidance
from fewstep.samplers.guidance.linear_solve import conjugate_gradients
from fewstep.samplers.guidance.measurement import Measurement

DRAW = torch.Generator().manual_seed(0)
SHAPE = (3, 8, 8)
KNOWN = (torch.rand(8, 8, generator=DRAW) > 0.6).float()
OPERATORS = {
    "mask": guidance.mask(KNOWN),
    "downsample": guidance.downsample(4),
    "colour": guidance.colour((0.3, 0.59, 0.11)),
    "matrix": guidance.Operator(lambda x: x.flatten(1)[:, :5] * 2, shape=SHAPE, name="first five"),
    "fourier": guidance.fourier(KNOWN),
    "projection": guidance.projection(torch.linspace(0, 3.1, 7)),
    "blur": guidance.blur(1.5, 5),
    "reflected": guidance.blur(1.5, 5, padding="reflect"),
    "circular": guidance.blur(torch.rand(3, 5, generator=DRAW), padding="circular"),
    "both": guidance.downsample(2) @ guidance.blur(1.0, 3),
}


def samples(n=2):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=list(OPERATORS))
def test_transposes_are_adjoints(operator):
    y = operator(samples())
    assert guidance.adjoint_residual(operator, y) < 1e-12
    assert guidance.adjoint_residual(operator, y.float()) < 1e-5
    by_autograd = guidance.Operator(operator.forward, shape=SHAPE)
    torch.testing.assert_close(operator.T(y), by_autograd.T(y), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=list(OPERATORS))
def test_samples_of_a_batch_do_not_meet(operator):
    x = samples(3)
    torch.testing.assert_close(operator(x)[1:2], operator(x[1:2]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=list(OPERATORS))
def test_norm_and_gram(operator):
    one = guidance.Operator(lambda x: operator(x.view(-1, *SHAPE)).flatten(1), shape=(192,))
    A = one(torch.eye(192, dtype=torch.float64)).T
    true = float(torch.linalg.matrix_norm(A, 2))
    y = operator(samples(1))
    assert 0.9 * true < operator.norm(y) < 1.0001 * true or (operator.name == "fourier" and true <= operator.norm(y))
    if operator.gram is not None:
        torch.testing.assert_close(operator.normal(y), operator.gram * y)
        torch.testing.assert_close(operator(operator.pinv(y)), y)


def test_projections_keep_what_is_inside():
    x = torch.zeros(1, 1, 16, 16)
    x[..., 5:11, 5:11] = 1.0
    sums = guidance.projection([0.0, 0.7, torch.pi / 2])(x)
    torch.testing.assert_close(sums.sum(-1), torch.full((1, 1, 3), 36.0))
    torch.testing.assert_close(sums[..., 0, :], x.sum(-2))
    torch.testing.assert_close(sums[..., 2, :], x.sum(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda operator: pickle.loads(pickle.dumps(operator))])
def test_operators_pickle_and_copy(again):
    whole = torch.arange(192).view(SHAPE) % 3 == 0
    others = {"points": guidance.points(whole), "phase": guidance.phase(), "product": guidance.matrix(torch.ones(2, 8))}
    for name, operator in {**OPERATORS, **others}.items():
        if name == "matrix":
            continue  # a function of this file
        x = samples()[:, 0, 0] if name == "product" else samples()
        other = again(operator)
        assert torch.equal(other(x), operator(x)) and repr(other) == repr(operator), name
        if operator.linear:
            y = operator(x)
            assert torch.equal(other.T(y), operator.T(y)), name
        if operator.gram is not None:
            assert torch.equal(other.pinv(y), operator.pinv(y)) and other.pinv.__self__ is other, name


def test_downsampling_is_the_mean():
    x = samples()
    torch.testing.assert_close(guidance.downsample(4)(x), torch.nn.functional.avg_pool2d(x, 4))


def test_derivatives_of_what_is_not_linear():
    phase, x, v = guidance.phase(), samples(), samples().flip(0)
    h = 1e-6
    slope = (phase(x + h * v) - phase(x - h * v)) / (2 * h)
    torch.testing.assert_close(phase.push(v, x), slope, rtol=1e-5, atol=1e-6)
    u = torch.randn_like(slope)
    torch.testing.assert_close((phase.pull(u, x) * v).sum(), (u * slope).sum(), rtol=1e-5, atol=1e-5)


def test_what_lies_outside_the_range_tells_nothing():
    y = torch.ones(1, *SHAPE)
    assert torch.equal(Measurement(y, OPERATORS["mask"]).y, OPERATORS["mask"](y))


@pytest.mark.parametrize("d", [1, 5, 12])
def test_conjugate_gradients_solve(d):
    draw = torch.Generator().manual_seed(d)
    M = torch.randn(d, d, generator=draw, dtype=torch.float64)
    M = M @ M.T + torch.eye(d)
    b = torch.randn(4, d, generator=draw, dtype=torch.float64)
    b[2] = 0.0
    found = conjugate_gradients(lambda u: u @ M, b, 3 * d)
    torch.testing.assert_close(found, torch.linalg.solve(M, b.T).T, rtol=1e-8, atol=1e-8)
    again = conjugate_gradients(lambda u: u @ M, b, 3 * d, start=torch.ones_like(b))
    torch.testing.assert_close(again, found, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(conjugate_gradients(lambda u: u @ M, b[:1], 3 * d), found[:1], rtol=1e-12, atol=1e-12)


def test_bad_input():
    for match, make in {
        "0 \\(unknown\\) and 1": lambda: guidance.mask([0.5, 1.0]),
        "whole number of pixels": lambda: guidance.downsample(0),
        "no whole squares": lambda: guidance.downsample(3)(samples()),
        "odd": lambda: guidance.blur(1.0, 4),
        "padding": lambda: guidance.blur(1.0, 3, padding="same"),
        "two axes": lambda: guidance.matrix(torch.ones(3)),
        "needs its transpose": lambda: guidance.Operator(lambda x: x),
        "3 channels": lambda: guidance.colour((0.5, 0.5))(samples()),
        "square images": lambda: guidance.projection([0.0])(samples()[..., :5]),
        "at least 1": lambda: guidance.phase(0.5),
    }.items():
        with pytest.raises(ValueError, match=match):
            make()


class Physics:
    """An operator as deepinv writes one; wrong: whether its adjoint is another's."""

    def __init__(self, wrong: bool = False, linear: bool = True):
        self.wrong = wrong
        if linear:
            self.A_adjoint = lambda y, **_: (2.0 + wrong) * torch.nn.functional.pad(y, (0, 3))

    def A(self, x, **_):
        return 2.0 * x[:, :2]


def test_physics_are_operators_as_they_are():
    y = torch.tensor([[0.5, -0.2]])
    known = Measurement(y, Physics(), 0.1)
    assert known.operator.linear and known.norm == pytest.approx(2.0) and known.operator.name == "Physics"
    assert not Measurement(y, Physics(linear=False), 0.1).operator.linear
    with pytest.raises(ValueError, match="transpose of Physics is not its adjoint"):
        Measurement(y, Physics(wrong=True), 0.1)
    with pytest.raises(ValueError, match="an object with A and A_adjoint; got dict"):
        Measurement(y, {}, 0.1)
