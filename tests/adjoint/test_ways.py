"""The ways back through a table: what each costs, keeps, draws again and refuses, and the precision that it works in."""

from __future__ import annotations

import pytest
import torch
from adjoints import BATCH, EXACT, SEEDS, SIZE, WIDE, Guided, apart, drawn, gradients, loss
from torch import Tensor

from fewstep import adjoint, sample
from fewstep.adjoint.exact.kept_states import Revolve, Segments, best
from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc", "dpmpp_2m_sde", "etd_rk3"])
def test_the_sample_is_that_of_sample(name: str) -> None:
    problem = Guided(dtype=torch.float32)
    seeds = SEEDS if SOLVERS[name].stochastic else None
    ours = drawn(problem, name, 8, "checkpoint", noise_seeds=seeds)
    assert torch.equal(ours, sample(problem.denoiser, problem.x_T, name, 8, t_end=1e-3, noise_seeds=seeds))
    assert ours.dtype == torch.float32
    with torch.no_grad():
        plain = drawn(problem, name, 8, "checkpoint", noise_seeds=seeds)
    assert torch.equal(plain, ours) and not plain.requires_grad


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 9])
def test_revolve_is_checkpoint_to_the_bit_and_costs_what_it_says(slots: int) -> None:
    problem, n = Guided(), 9
    x = problem.x_T.requires_grad_()
    expected = gradients(drawn(problem, "dpmpp_3m", n, "checkpoint"), [x, *problem.targets])
    before = problem.denoiser.nfe
    found = gradients(drawn(problem, "dpmpp_3m", n, "revolve", slots=slots), [x, *problem.targets])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert problem.denoiser.nfe - before == 2 * n + Revolve(slots).advances(n)


def test_fewest_repetitions() -> None:
    """The published table of optimal binomial checkpointing: rows 20, 50, 100, slots 2, 3, 5, 8, 10, 15."""
    table = [[best(n, s)[0] for s in (2, 3, 5, 8, 10, 15)] for n in (20, 50, 100)]
    assert table == [[65, 45, 33, 30, 28, 23], [285, 180, 122, 95, 88, 83], [845, 490, 316, 245, 222, 183]]


@pytest.mark.parametrize(("n", "size"), [(9, None), (7, 3), (5, 8), (4, 1)])
def test_segments_cost_what_they_say(n: int, size: int | None) -> None:
    problem = Guided()
    before = problem.denoiser.nfe
    loss(drawn(problem, "dpmpp_2m", n, "segments", slots=size)).backward()
    assert problem.denoiser.nfe - before == 2 * n + Segments(size).advances(n)


def test_noise_of_generators_is_made_again() -> None:
    problem = Guided()
    x = problem.x_T.requires_grad_()
    for generators in (1, BATCH):
        runs = []
        for method in ("direct", "revolve"):
            made = [torch.Generator().manual_seed(i) for i in range(generators)]
            given = made[0] if generators == 1 else made
            runs.append(gradients(drawn(problem, "dpmpp_2m_sde", 6, method, generator=given), [x, *problem.targets]))
        assert apart(runs[1], runs[0]) <= 1e-12
    torch.manual_seed(4)
    one = drawn(problem, "dpmpp_2m_sde", 6, "direct")
    torch.manual_seed(4)
    assert torch.equal(drawn(problem, "dpmpp_2m_sde", 6, "revolve"), one)


def test_accumulating_in_place() -> None:
    problem = Guided()
    loss(drawn(problem, "dpmpp_2m", 5, "checkpoint")).backward()
    expected = [t.grad.clone() for t in problem.targets]
    loss(drawn(problem, "dpmpp_2m", 5, "checkpoint", accumulate=True)).backward()
    assert apart([t.grad for t in problem.targets], [2 * g for g in expected]) <= 1e-12


def test_offloaded_latents_give_the_same_gradient() -> None:
    problem = Guided()
    x = problem.x_T.requires_grad_()
    runs = [gradients(drawn(problem, "dpmpp_2m", 5, "checkpoint", offload=o), [x]) for o in (False, True)]
    assert torch.equal(runs[0][0], runs[1][0])


class Dropping(torch.nn.Module):
    """A small network with dropout, and batch norm on request."""

    def __init__(self, norm: bool = False):
        super().__init__()
        torch.manual_seed(0)
        middle = torch.nn.BatchNorm1d(16, dtype=WIDE) if norm else torch.nn.Dropout(0.5)
        parts = torch.nn.Linear(SIZE, 16, dtype=WIDE), torch.nn.Tanh(), middle, torch.nn.Linear(16, SIZE, dtype=WIDE)
        self.net = torch.nn.Sequential(*parts)

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("method", EXACT)
def test_dropout_is_played_again(method: str) -> None:
    """A network in training mode: the same units are dropped on the way back, and the generator goes on as if once."""
    net = Dropping()
    problem = Guided()
    denoiser = Denoiser(net, problem.schedule)
    targets = [problem.x_T.requires_grad_(), *net.parameters()]
    runs, after = [], []
    for m in ("direct", method):
        torch.manual_seed(1)
        runs.append(gradients(adjoint.sample(denoiser, problem.x_T, "dpmpp_2m", 6, method=m, t_end=1e-3), targets))
        after.append(torch.rand(1))
    assert apart(runs[1], runs[0]) <= 1e-12 and torch.equal(*after)
    torch.manual_seed(2)
    assert apart(gradients(adjoint.sample(denoiser, problem.x_T, "dpmpp_2m", 6, t_end=1e-3), targets), runs[0]) > 0.1


def test_autocast_is_entered_again() -> None:
    problem = Guided(dtype=torch.float32)
    x = problem.x_T.requires_grad_()
    runs = []
    for method in ("direct", "checkpoint"):
        with torch.autocast("cpu", torch.bfloat16):
            x0 = drawn(problem, "dpmpp_2m", 5, method)
        runs.append(gradients(x0, [x, *problem.targets]))
    assert apart(runs[1][:1], runs[0][:1]) <= 1e-6
    assert (
        apart(runs[1], runs[0]) <= 1e-2
    )  # autograd adds up the calls' parameter gradients in bfloat16, the sweep does not
    assert apart(runs[1], gradients(drawn(problem, "dpmpp_2m", 5, "direct"), [x, *problem.targets])) > 1e-4


def test_half_precision_does_not_lose_small_gradients() -> None:
    """A network in float16 and a loss so small that its gradient is below float16's smallest number."""
    net = Dropping().eval().half()
    schedule = NoiseSchedule.vp_linear()
    x = schedule.initial_noise((BATCH, SIZE), torch.Generator().manual_seed(0)).half().requires_grad_()
    x0 = adjoint.sample(Denoiser(net, schedule), x, "ddim", 4, t_end=0.01)
    wide = Dropping().eval()
    y = x.detach().double().requires_grad_()
    expected = torch.autograd.grad(
        loss(adjoint.sample(Denoiser(wide, schedule), y, "ddim", 4, t_end=0.01)), wide.parameters()
    )
    assert x0.dtype == torch.float16
    found = torch.autograd.grad((1e-3 * loss(x0.double())), net.parameters())
    assert apart([1e3 * g.double() for g in found], expected) < 0.05


class _Bad:
    """Networks that gradients cannot flow through, or not as they seem to."""

    detached = staticmethod(lambda x, tau: 0.5 * x.detach())
    constant = staticmethod(lambda x, tau: torch.zeros_like(x))

    @staticmethod
    @torch.no_grad()
    def closed(x: Tensor, tau: Tensor) -> Tensor:
        return 0.5 * x


def test_bad_input() -> None:
    problem = Guided()
    x, schedule = problem.x_T.requires_grad_(), problem.schedule
    for fn in (_Bad.detached, _Bad.constant, _Bad.closed):
        with pytest.raises(ValueError, match="does not depend on its input .* detaches"):
            adjoint.sample(Denoiser(fn, schedule), x, "ddim", 3)
    with pytest.raises(ValueError, match="nothing to differentiate"):
        adjoint.sample(Denoiser(lambda x, tau: 0.5 * x, schedule), x.detach(), "ddim", 3)
    with pytest.raises(ValueError, match="nothing to differentiate"):
        adjoint.sample(Denoiser(lambda x, tau: 0.5 * x, schedule), x.detach(), "ddim", 3, method="direct")
    stranger = torch.ones(2, 5, dtype=WIDE, requires_grad=True)
    with pytest.raises(
        ValueError, match=r"1 of the 3 tensors in `params` have no part in the network's output \(shapes \(2, 5\)"
    ):
        drawn(problem, "ddim", 3, "checkpoint", params=[*problem.params, stranger])
    with pytest.raises(ValueError, match="batch norm in training mode"):
        adjoint.sample(Denoiser(Dropping(norm=True), schedule), x, "ddim", 3)
    with pytest.raises(ValueError, match="unknown method 'chekpoint'.*checkpoint"):
        drawn(problem, "ddim", 3, "chekpoint")
    for more, match in (
        ({"slots": 3}, "`slots` belongs to"),
        ({"method": "revolve", "slots": 0}, "at least 1; got 0"),
        ({"last": 0}, "`last` must be a whole number"),
        ({"z": torch.zeros(1)}, r"of shape \(0, 3, 4\); got \(1,\)"),
    ):
        with pytest.raises(ValueError, match=match):
            drawn(problem, "ddim", 3, **{"method": "checkpoint", **more})
    with pytest.raises(ValueError, match="beside a state of torch.float32 .*give x_T in the network's dtype"):
        adjoint.sample(Denoiser(Dropping().eval(), schedule), x.detach().float().requires_grad_(), "ddim", 3)
    with pytest.raises(ValueError, match="`hook` acts between the rows"):
        drawn(problem, "ddim", 3, "checkpoint", hook=lambda step: step.x.round())
    with pytest.raises(ValueError, match="draws no noise"):
        adjoint.noise_path(problem.denoiser, x, "ddim", 3, noise_seeds=SEEDS)
    with pytest.raises(ValueError, match="`post` acts between"):
        adjoint.sample(problem.denoiser, x, adjoint.free(problem.denoiser, "ddim", 3), post=torch.tanh)


def test_changes_between_sampling_and_backward_are_noticed() -> None:
    problem = Guided()
    value = loss(drawn(problem, "ddim", 3, "checkpoint"))
    with torch.no_grad():
        problem.first.mul_(2.0)
    with pytest.raises(ValueError, match="changed in place between sampling and backward"):
        value.backward()


def test_gradients_that_are_not_finite_are_refused() -> None:
    problem = Guided()
    x0 = drawn(problem, "ddim", 3, "checkpoint")
    with pytest.raises(ValueError, match="gradient of the sample is not finite"):
        (x0 * float("nan")).sum().backward()


REVERSIBLE = ("bdia", "o_belm", "alf", "reversible_heun", "edict", "rex")


@pytest.mark.parametrize("nfe", [1, 2, 7, 20, 50])
@pytest.mark.parametrize("name", REVERSIBLE)
def test_reversible_solvers_undo_their_states(name: str, nfe: int) -> None:
    """The gradient of every state made anew from the one after it; two latents are kept, and few more."""
    problem = Guided()
    problem.weight.data.fill_(1.2)
    targets = [problem.x_T.requires_grad_(), *problem.targets]
    x0 = drawn(problem, name, nfe, "reversible", grid="logsnr")
    assert len(x0.grad_fn.saved_tensors) <= 2  # type: ignore[union-attr]
    limit = 1e-8 if name == "o_belm" else 1e-10  # whose way back lets rounding grow, see its docstring
    assert (
        apart(gradients(x0, targets), gradients(drawn(problem, name, nfe, "direct", grid="logsnr"), targets)) <= limit
    )


def test_reversible_sdes_and_clipping() -> None:
    problem = Guided()
    problem.weight.data.fill_(1.0)
    targets = [problem.x_T.requires_grad_(), *problem.targets]
    for name, more in (("rex_sde", {"form": "flow", "noise_seeds": SEEDS}), ("alf", {"post": torch.tanh})):
        runs = [gradients(drawn(problem, name, 8, m, **more), targets) for m in ("direct", "reversible")]
        assert apart(runs[1], runs[0]) <= 1e-10


def test_tables_that_cannot_be_undone_are_refused() -> None:
    problem = Guided()
    problem.x_T.requires_grad_()
    before = problem.denoiser.nfe
    for name, more, match in (
        ("dpmpp_2m", {}, "dpmpp_2m: row 0 of 80 cannot be undone"),
        ("bdia", {"gamma": 0.5}, r"bdia: on the way back rounding grows .* keep the states"),
        ("alf", {"last": 3}, "`slots`, `last` and adjoint.free go with"),
    ):
        with pytest.raises(ValueError, match=match):
            drawn(problem, name, 80, "reversible", grid="logsnr", **more)
    assert problem.denoiser.nfe == before


def test_continuous_adjoints_are_methods_too() -> None:
    """Close to the exact gradient where steps are small; warned about where they are not; options checked."""
    problem = Guided()
    problem.weight.data.fill_(1.2)
    targets = [problem.x_T.requires_grad_(), *problem.targets]
    exact = gradients(drawn(problem, "dpmpp_2m", 80, "checkpoint", grid="logsnr"), targets)
    for method, options in (("adjoint_dpm", {}), ("adjoint_deis", {"order": 2}), ("adjoint_deis", {"order": "2s"})):
        found = gradients(drawn(problem, "dpmpp_2m", 80, method, grid="logsnr", method_options=options), targets)
        assert apart(found, exact) < 0.1
    with pytest.warns(UserWarning, match="not accurate"):
        drawn(problem, "ddim", 5, "adjoint_deis", grid="logsnr")
    with pytest.raises(ValueError, match="unknown option of adjoint_dpm 'order'"):
        drawn(problem, "ddim", 30, "adjoint_dpm", method_options={"order": 1})
    with pytest.raises(ValueError, match="`method_options` belong to adjoint_dpm and adjoint_deis"):
        drawn(problem, "ddim", 30, "checkpoint", method_options={"order": 1})
