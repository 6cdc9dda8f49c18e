"""Stochastic runs as Gaussian transitions: densities, gradients, replays, published coefficients, memory, refusals."""

from __future__ import annotations

import dataclasses
import itertools
import math
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from fewstep import Denoiser, NoiseSchedule, adjoint, build, sample
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import first_state

VP, FLOW = NoiseSchedule.vp_linear(), NoiseSchedule.flow()
TABLES: list[tuple[str, dict[str, Any]]] = [
    ("ddpm", {}), ("ddim", {"eta": 0.5}), ("euler_ancestral", {}), ("dpmpp_2m_sde", {}), ("dpmpp_3m_sde", {}), ("sde_dpm", {}),
    ("er_sde", {}), ("sa_solver", {}), ("sa_solver", {"tau_interval": None, "pece": True}), ("seeds", {}),
    ("seeds", {"order": 3, "form": "x0"}), ("dpmpp_sde", {"r": 1.0}), ("flow_sde", {}), ("edm_stochastic", {}),
    ("restart", {"base": "dpmpp_2m"}), ("dpm_2_ancestral", {}), ("rex_sde", {}), ("res_multistep_ancestral", {}),
    ("dpmpp_2m_sde", {"tau": [0, 0, 0.7, 0.7, 0, 0]}), ("sa_solver", {"tau": [0, 1, 1, 0, 0, 0]}),
]  # fmt: skip
FEW = [TABLES[i] for i in (3, 8, 9, 14, 16, 18)]
every = pytest.mark.parametrize("tables", [FEW, pytest.param(TABLES, marks=pytest.mark.slow)], ids=["few", "all"])


class Small(nn.Module):
    """A network of D numbers that depends on the time; `wide` numbers within."""

    def __init__(self, seed: int = 0, wide: int = 16, d: int = 3, dtype: torch.dtype = torch.float64):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.a = nn.Parameter(torch.randn(d + 1, wide, generator=g, dtype=torch.float64).to(dtype) / 2)
        self.b = nn.Parameter(torch.randn(wide, d, generator=g, dtype=torch.float64).to(dtype) / 4)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = torch.cat([x, t.to(x).expand(len(x), 1)], 1) @ self.a
        return 0.3 * x + torch.tanh(h) @ self.b


def model(schedule: NoiseSchedule = VP, **options: Any) -> tuple[Small, Denoiser]:
    network = Small(**options)
    return network, Denoiser(network, schedule, "epsilon" if schedule is VP else "flow_prediction")


def start(batch: int = 4, dtype: torch.dtype = torch.float64, d: int = 3) -> Tensor:
    return torch.randn(batch, d, generator=torch.Generator().manual_seed(1), dtype=dtype)


def played(table: Any, denoiser: Denoiser, x_T: Tensor, rows: tuple[int, ...], z: Tensor) -> Tensor:
    """States after the noisy rows, in a row, as a function of their noises: the table itself, nothing known of densities."""
    steps = lower(table, denoiser.prediction, "cpu", torch.float64)
    state, seen, drawn = first_state(table, x_T), [], iter(z.view(len(rows), *x_T.shape))
    for step in steps:
        noises = [next(drawn)] if step.draws else []
        state = step(state, denoiser.call(state.input, step.model_time, step), noises)
        seen += [state.input] if step.index in rows else []
    return torch.stack(seen).flatten()


@every
def test_log_prob_is_the_density_of_the_noise_carried_to_the_states(tables: list[tuple[str, dict[str, Any]]]) -> None:
    """log p(states) = log N(z) - log |det d states / dz|, whatever the table and under other weights than drew, to 1e-10."""
    for (name, options), schedule in itertools.product(tables, [VP, FLOW] if tables is TABLES else [VP]):
        (_, drew), (_, other), x_T = model(schedule), model(schedule, seed=3), start(1)
        t = adjoint.rollout(drew, x_T, name, 6, noise_seeds=[5], **options)
        for denoiser in (drew, other):
            means = t.means(denoiser)
            c = [float(t.deviations[k]) for k in t.rows]
            z = torch.stack([(t.states[k + 1] - m) / s for k, m, s in zip(t.rows, means, c, strict=True)]).detach()
            run = lambda z: played(t.tableau, denoiser, x_T, t.rows, z)  # noqa: E731, B023
            there = torch.stack([t.states[k + 1] for k in t.rows]).flatten()
            assert (run(z.flatten()) - there).abs().max() <= 1e-10 * (1 + there.abs().max()), name
            volume = torch.linalg.slogdet(jacobian(run, z.flatten()))[1]
            wanted = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum() - volume
            assert abs(float(t.log_prob(denoiser).detach().sum() - wanted)) <= 1e-10 * (1 + abs(float(wanted))), (
                name,
                options,
            )


@every
def test_gradients_are_those_of_finite_differences(tables: list[tuple[str, dict[str, Any]]]) -> None:
    """Through outputs of the past, anchors and rows without noise."""
    network, denoiser = model()
    for name, options in tables:
        t = adjoint.rollout(denoiser, start(2), name, 6, noise_seeds=[5, 6], **options)
        network.zero_grad()
        t.log_prob(denoiser).sum().backward()
        grad, way = network.a.grad, torch.randn_like(network.a)
        ends = []
        with torch.no_grad():
            for sign in (1, -1):
                network.a += sign * 1e-6 * way
                ends.append(float(t.log_prob(denoiser).sum()))
                network.a -= sign * 1e-6 * way
        wanted = (ends[0] - ends[1]) / 2e-6
        assert abs(float((grad * way).sum()) - wanted) <= 1e-5 * (1 + abs(wanted)), (name, options)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_weights_have_ratio_one_to_the_bit(
    dtype: torch.dtype, tables: list[tuple[str, dict[str, Any]]]
) -> None:
    """With gradients and without, in every table: the arithmetic of the rollout is repeated on states that are kept wide."""
    _, denoiser = model(dtype=dtype)
    for name, options in tables:
        t = adjoint.rollout(denoiser, start(3, dtype), name, 6, noise_seeds=range(3), **options)
        assert t.states[0].dtype == torch.float32 and t.sample.dtype == dtype
        assert bool((t.ratio(denoiser) == 1).all()), name
        with torch.no_grad():
            assert bool((t.ratio(denoiser) == 1).all()), name
        if not any(isinstance(v, list) for v in options.values()):
            drawn = sample(denoiser, start(3, dtype), name, 6, noise_seeds=range(3), **options)
            assert (t.sample - drawn).abs().max() <= 16 * torch.finfo(dtype).eps * (1 + drawn.abs().max()), name


@pytest.mark.parametrize("n", [5, 10, 28])
def test_flow_grpo_and_cps(n: int) -> None:
    """Published mean and deviation of all rows but the last, which draws nothing here; the first has t_1 in the place of 1."""
    _, denoiser = model(FLOW)
    shift = lambda s: 3 * s / (1 + 2 * s)  # noqa: E731
    times = [*shift(np.linspace(1, 1 / n, n)), 0.0]
    for w, a in (("grpo", 0.7), ("cps", 0.8)):
        scale = a**2 if w == "grpo" else a
        t = adjoint.rollout(denoiser, start(), "flow_sde", None, times, noise_seeds=range(4), w=w, scale=scale)
        assert t.rows == tuple(range(n - 1))
        for k in t.rows:
            s, e, x = times[k], times[k + 1], t.states[k]
            v = denoiser(x, s).detach()
            if w == "grpo":
                level, dt = a * math.sqrt(s / (1 - (times[1] if s == 1 else s))), e - s
                mean = x * (1 + level**2 / (2 * s) * dt) + v * (1 + level**2 * (1 - s) / (2 * s)) * dt
                c = level * math.sqrt(-dt)
            else:
                c = e * math.sin(a * math.pi / 2)
                mean = (x - s * v) * (1 - e) + (x + (1 - s) * v) * math.sqrt(e**2 - c**2)
            assert abs(t.deviations[k] - c) <= 1e-6 * c
            assert (t.means()[t.rows.index(k)] - mean).abs().max() <= 1e-6


def test_scores_are_zero_on_average() -> None:
    """E grad log p = 0 within four standard errors, for rows of one step and of several."""
    network, denoiser = model()
    way = torch.randn(network.b.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for name in ("ddpm", "dpmpp_2m_sde", "sa_solver", "seeds"):
        t = adjoint.rollout(denoiser, start(1).expand(4000, 3), name, 4, generator=torch.Generator().manual_seed(0))
        ends = []
        with torch.no_grad():
            for move in (1e-5, -1e-5):
                network.b += move * way
                ends.append(t.log_prob(denoiser).sum(1))
                network.b -= move * way
        score = (ends[0] - ends[1]) / 2e-5
        assert abs(float(score.mean())) <= 4 * float(score.std()) / math.sqrt(len(score)), name


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m_sde", "sa_solver"])
def test_policy_gradient_of_a_gaussian_model(name: str) -> None:
    """Data N(theta, 1/4), whose samples are Gaussian: d E R / d theta of R = -(x - 2)^2 within 2 %, by either loss."""
    theta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def x0(x: Tensor, tau: Tensor) -> Tensor:
        alpha, sigma = (float(f(VP.time_of_model(float(tau)))) for f in (VP.alpha, VP.sigma))
        return theta + 0.25 * alpha / (0.25 * alpha**2 + sigma**2) * (x - alpha * theta)

    denoiser, x_T = Denoiser(x0, VP, "sample"), torch.full((300_000, 1), 0.4, dtype=torch.float64)
    options = {"tau_interval": None} if name == "sa_solver" else {}
    t = adjoint.rollout(denoiser, x_T, name, 4, generator=torch.Generator().manual_seed(1), **options)
    assert t.rows == (0, 1, 2, 3)
    mean = played(t.tableau, denoiser, x_T[:1], t.rows, torch.zeros(4, 1, 1, dtype=torch.float64))[-1]
    (slope,) = torch.autograd.grad(mean, theta)
    wanted = float(-2 * (mean.detach() - 2) * slope)
    A = adjoint.advantages(-(t.sample - 2).square().squeeze(1), scale="none")
    log_prob = t.log_prob(denoiser)
    for loss, times in ((adjoint.reinforce(log_prob, A), 1), (adjoint.clipped(log_prob, t.log_prob(), A), len(t.rows))):
        (found,) = torch.autograd.grad(loss, theta, retain_graph=True)
        assert abs(-times * float(found) - wanted) <= 0.02 * abs(wanted), (name, float(found), wanted)


def test_kl_is_exact() -> None:
    """Of each row that of torch.distributions; of the whole run, the mean log-ratio within its error."""
    (_, one), (_, other) = model(), model(seed=3)
    t = adjoint.rollout(one, start(1).expand(4000, 3), "dpmpp_2m_sde", 4, generator=torch.Generator().manual_seed(0))
    kl = t.kl(one, other)
    for column, k, m, n in zip(kl.T, t.rows, t.means(one), t.means(other), strict=True):
        c = float(t.deviations[k])
        wanted = torch.distributions.kl_divergence(torch.distributions.Normal(m, c), torch.distributions.Normal(n, c))
        assert torch.allclose(column, wanted.sum(1), rtol=1e-12)
    gap = (t.log_prob() - t.log_prob(other)).sum(1)
    off = (kl.sum(1) - gap).detach()
    assert abs(float(off.mean())) <= 4 * float(off.std()) / math.sqrt(len(off))
    assert float(kl.detach().sum(1).mean()) > 10 * float(off.std()) / math.sqrt(len(off))
    frozen = t.means(other)
    assert torch.equal(t.kl(t.means(one), frozen), kl) and not bool(t.kl(one).any())
    kl.sum().backward()  # reaches the weights


def test_memory_is_that_of_one_call() -> None:
    """Activations alive at once, in the replay and on its way back, do not grow with the rows."""
    counts = {}
    for nfe in (4, 16):
        alive: list[weakref.ref[Tensor]] = []
        most = 0

        class Watched(Small):
            def forward(self, x: Tensor, t: Tensor) -> Tensor:
                nonlocal most
                h = torch.tanh(torch.cat([x, t.to(x).expand(len(x), 1)], 1) @ self.a)
                alive.append(weakref.ref(h))  # noqa: B023
                most = max(most, sum(ref() is not None for ref in alive))  # noqa: B023
                return 0.3 * x + h @ self.b

        denoiser = Denoiser(Watched(wide=1000), VP)
        t = adjoint.rollout(denoiser, start(), "dpmpp_2m_sde", nfe, noise_seeds=range(4))
        saved = 0

        def count(x: Tensor) -> Tensor:
            nonlocal saved
            saved += x.numel() * (x.untyped_storage().data_ptr() not in known)  # noqa: B023
            return x

        known = {x.untyped_storage().data_ptr() for x in (*t.states, *denoiser.fn.parameters())}  # type: ignore[attr-defined]
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            log_prob = t.log_prob(denoiser)
        log_prob.sum().backward()
        counts[nfe] = (most, saved / nfe)
    assert counts[16][0] == counts[4][0] <= 2
    assert counts[16][1] <= 6 * 12  # a few latents a row, of 12 numbers; an activation has 4000


def test_a_row_at_a_time() -> None:
    """Rows by themselves cost the calls that their means depend on, and add up to the whole."""
    network, denoiser = model()
    for name, calls in (("ddpm", 1), ("dpmpp_2m_sde", 2), ("seeds", 2)):
        t = adjoint.rollout(denoiser, start(), name, 6, noise_seeds=range(4))
        network.zero_grad()
        t.log_prob(denoiser).sum().backward()
        whole = network.b.grad.clone()
        network.zero_grad()
        for k in t.rows:
            denoiser.nfe = 0
            with torch.no_grad():
                t.log_prob(denoiser, [k])
            assert denoiser.nfe <= calls
            t.log_prob(denoiser, rows=[k]).sum().backward()
        assert torch.allclose(network.b.grad, whole, rtol=1e-10)
        part = t.take([2, 0])
        assert torch.allclose(part.log_prob(denoiser), t.log_prob()[[2, 0]], rtol=1e-12) and part.size == 3


def test_windows_of_noise() -> None:
    """`tau` by row: the rows of either table, rows without noise played or taken as they were."""
    network, denoiser = model(FLOW)
    whole = adjoint.rollout(denoiser, start(), "flow_sde", 8, noise_seeds=range(4), scale=[0.5] * 8)
    one = adjoint.rollout(denoiser, start(), "flow_sde", 8, noise_seeds=range(4), scale=0.5)
    assert np.array_equal(whole.tableau.W, one.tableau.W) and torch.equal(whole.sample, one.sample)
    for name, option in (("flow_sde", "scale"), ("dpmpp_2m_sde", "tau"), ("ddim", "eta"), ("seeds", "tau")):
        steps = 8 if name != "seeds" else 5  # the ends of a flow take one call each
        window = [0.0] * (steps - 3) + [0.5, 0.5, 0.0]
        t = adjoint.rollout(denoiser, start(), name, 8, noise_seeds=range(4), **{option: window})
        calls = {}
        for silent in ("played", "given"):
            replay = adjoint.rollout(
                denoiser, start(), name, 8, noise_seeds=range(4), silent=silent, **{option: window}
            )
            assert bool((replay.ratio(denoiser) == 1).all())
            network.zero_grad()
            denoiser.nfe = 0
            replay.log_prob(denoiser)
            calls[silent] = denoiser.nfe
        assert calls["played"] == max(t.rows) + 1 and calls["given"] <= len(t.rows) + 1, name
    assert "rows 0, 1, 2, 5, 6, 7 have none and no density: the sample is" in str(
        adjoint.rollout(denoiser, start(), "ddim", 8, noise_seeds=range(4), eta=[0, 0, 0, 1, 1, 0, 0, 0])
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"solver": "ddim"}, "ddim draws no noise on these steps"),
        ({"solver": "rk45"}, "chooses its steps as it goes and has no table"),
        ({"silent": "kept"}, "unknown value of `silent`"),
        ({"solver": "ddim", "eta": [1, 0]}, "got 2 values for 6 steps"),
        ({"solver": "edm_stochastic", "s_churn": [40, 0, 0]}, "it changes where the network is asked"),
        ({"callback": print}, "`callback` changes states between rows"),
        ({"noise_seeds": [1]}, "1 noise seeds for a batch of 4"),
    ],
)
def test_bad_rollouts(options: dict[str, Any], told: str) -> None:
    """Before any network call."""
    _, denoiser = model()
    with pytest.raises(ValueError, match=told):
        adjoint.rollout(denoiser, start(), **{"nfe": 6, "noise_seeds": range(4), **options})
    assert denoiser.nfe == 0


def test_bad_replays() -> None:
    """Another schedule, table or shape; rows without noise."""
    _, denoiser = model()
    t = adjoint.rollout(denoiser, start(), "dpmpp_2m_sde", 4, noise_seeds=range(4))
    other = adjoint.rollout(denoiser, start(3), "dpmpp_2m_sde", 4, noise_seeds=range(3))
    with pytest.raises(ValueError, match="the table was compiled for"):
        t.log_prob(model(FLOW)[1])
    with pytest.raises(ValueError, match="means of another table or shape"):
        t.kl(denoiser, other.means())
    with pytest.raises(ValueError, match="means of another table or shape"):
        t.log_prob(t.means()[:2])
    with pytest.raises(ValueError, match="some of the rows with noise"):
        t.log_prob(denoiser, rows=[7])
    with pytest.raises(ValueError, match="must be a Denoiser"):
        t.log_prob(print)  # type: ignore[arg-type]


def test_weights_that_move_before_the_way_back_are_refused() -> None:
    """Else the gradient would be silently that of another network."""
    network, denoiser = model()
    t = adjoint.rollout(denoiser, start(), "ddpm", 4, noise_seeds=range(4))
    loss = t.log_prob(denoiser).sum()
    with torch.no_grad():
        network.b += 1e-6
    with pytest.raises(ValueError, match="changed between log_prob"):
        loss.backward()


def test_dropout_is_refused() -> None:
    """On in the rollout, or on in the replay alone; numbers drawn to no effect are no dropout."""
    network = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    denoiser = Denoiser(lambda x, tau: network(x), VP)
    with pytest.raises(ValueError, match="dropout is on"):
        adjoint.rollout(denoiser, start(), "ddpm", 4, noise_seeds=range(4))
    network.eval()
    t = adjoint.rollout(denoiser, start(), "ddpm", 4, noise_seeds=range(4))
    network.train()
    for grad in (True, False):
        with pytest.raises(ValueError, match="dropout is on"), torch.set_grad_enabled(grad):
            t.log_prob(denoiser)
    network.eval()
    idle = Denoiser(lambda x, tau: network(x) + 0 * torch.rand(()), VP)
    assert bool((t.ratio(idle) == 1).all())


def test_weights_by_element_and_processes_with_a_mean() -> None:
    """A table whose weights are arrays of one sample's shape is the scalar one; with a mean the ratio is 1 too."""
    _, denoiser = model()
    table = build("dpmpp_2m_sde", VP, 4)
    wide = dataclasses.replace(table, W=np.broadcast_to(table.W[..., None], (*table.W.shape, 3)).copy())
    runs = [adjoint.rollout(denoiser, start(), one, noise_seeds=range(4)) for one in (table, wide)]
    for a, b in (
        (runs[0].sample, runs[1].sample),
        (runs[0].log_prob(), runs[1].log_prob(denoiser)),
        (runs[0].kl(denoiser, model(seed=3)[1]), runs[1].kl(denoiser, model(seed=3)[1])),
    ):
        assert torch.allclose(a, b, rtol=1e-12)
    reverting = Denoiser(Small(), NoiseSchedule.mean_reverting(), "epsilon")
    t = adjoint.rollout(reverting, start(), "dpmpp_2m_sde", 4, noise_seeds=range(4), mu=torch.full((3,), 0.5).double())
    assert bool((t.ratio(reverting) == 1).all())
    assert bool((t.take(slice(2)).ratio(reverting) == 1).all())
