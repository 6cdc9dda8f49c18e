"""What a step costs beside the network, and what may happen to a state between two steps."""

import dataclasses
import itertools

import pytest
import torch
from late import diffusers
from pipelike import Network, run
from problems import Gaussian, Mixture, in_turn
from torch.utils._python_dispatch import TorchDispatchMode

import fewstep
from fewstep import Denoiser, sample
from fewstep.samplers import SOLVERS, Tableau
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.schedule.base import Nodes
from fewstep.samplers.scheduler.threshold import Clip, DynamicThreshold
from fewstep.samplers.table.row import INPUT, Row
from fewstep.samplers.table.row import noise as z

SD = {"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
TABLES = [name for name, entry in SOLVERS.items() if entry.kind == "tableau"]
VIEWS = {
    "view",
    "expand",
    "t",
    "unbind",
    "select",
    "slice",
    "as_strided",
    "alias",
    "detach",
    "_unsafe_view",
    "unsqueeze",
}


def noise(*shape, seed=0):
    return torch.randn(*(shape or (1, 4, 16, 16)), generator=torch.Generator().manual_seed(seed))


class Watch(TorchDispatchMode):
    """Counts tensor operations, views aside; a read of a device value is an error."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "item", "equal"):
            raise AssertionError(f"a step reads the device: {name}")
        if name not in VIEWS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("config", [SD, FLOW], ids=["vp", "flow"])
@pytest.mark.parametrize("name", TABLES)
def test_at_most_four_operations_and_no_read(name, config):
    scheduler = fewstep.Scheduler.from_config(config, name)
    outputs = [noise(seed=i) for i in range(12)]
    for first in (scheduler.set_begin_index, lambda: None):
        scheduler.set_timesteps(12)
        first()
        x = noise()
        for t, output in zip(scheduler.timesteps, outputs, strict=True):
            with Watch() as watch:
                x = scheduler.step(output, t, x, return_dict=False)[0]
            drawn = watch.names.count("randn")
            assert 0 < len(watch.names) - drawn <= 4 and drawn <= 1, watch.names


def test_the_watch_sees_what_it_should():
    with Watch() as watch:
        noise() + 1
        noise().view(-1)
    assert watch.names.count("add") == 1 and "view" not in watch.names
    with pytest.raises(AssertionError, match="reads"), Watch():
        float(noise().sum())


def test_half_precision_costs_two_casts():
    scheduler = fewstep.Scheduler.from_config(SD, "dpmpp_2m")
    scheduler.set_timesteps(5)
    x = noise().half()
    for t in scheduler.timesteps:
        with Watch() as watch:
            x = scheduler.step(x, t, x, return_dict=False)[0]
        assert len([n for n in watch.names if n != "_to_copy"]) <= 4 and watch.names.count("_to_copy") <= 3


@pytest.mark.parametrize(
    ("name", "dtype"), in_turn(["dpmpp_2m", "unipc", "heun", "deis"], [torch.float32, torch.bfloat16])
)
def test_network_and_step_compile_into_one_graph(name, dtype):
    from torch._dynamo.testing import CompileCounter  # slow to import

    torch._dynamo.reset()
    counter = CompileCounter()
    network = torch.nn.Conv2d(4, 4, 3, padding=1).to(dtype)
    compiled, plain = (fewstep.Scheduler.from_config(SD, name) for _ in range(2))

    def advance(scheduler, x, t):
        return scheduler.step(network(x), t, x, return_dict=False)[0]

    fast = torch.compile(advance, backend=counter, fullgraph=True)
    with torch.no_grad():
        ends = []
        for scheduler, go in ((compiled, fast), (plain, advance), (compiled, fast)):
            scheduler.set_timesteps(12)
            x = noise().to(dtype)
            for t in scheduler.timesteps:
                x = go(scheduler, x, t)
            ends.append(x)
            graphs = counter.frame_count
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])
    assert 0 < graphs <= 8  # kinds of rows, not steps


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "heun", "unipc"])
def test_gradients_flow_through_steps(name):
    scheduler = fewstep.Scheduler.from_config(SD, name)
    scale = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    start = noise(1, 2, 2, 2).double()

    def end(scale, x):
        scheduler.set_timesteps(5)
        for t in scheduler.timesteps:
            x = scheduler.step(scale * torch.tanh(x), t, x).prev_sample
        return x

    assert torch.autograd.gradcheck(end, (scale, start.requires_grad_()))
    scheduler.set_timesteps(5)
    assert scheduler.step(scale * start, 999, start, return_dict=False)[1].requires_grad


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "heun", "dpm_3", "unipc", "etd_rk4", "pndm"])
def test_an_edited_state_moves_its_anchor(name):
    """A pipeline that edits the latents after each step gets what `sample` gives with the same hook."""
    problem = Mixture()
    scheduler = fewstep.Scheduler.from_config(FLOW, name)
    scheduler.set_timesteps(8)
    table, edit = scheduler._table.tableau, 0.1 * noise(4, 2, seed=2).double()
    denoiser = problem.denoiser(table.schedule, "flow_prediction")
    x = start = noise(4, 2).double()
    network = Network(problem, "flow_prediction")
    for i, t in enumerate(table.model_times):
        x = scheduler.step(network(x, t), scheduler.timesteps[i], x, return_dict=False)[0] + edit
    want = sample(denoiser, start, table, hook=lambda seen: seen.x + edit)
    torch.testing.assert_close(x, want, rtol=1e-9, atol=1e-9)


def test_an_edit_in_place_is_seen_in_half_precision():
    ends = []
    for in_place in (True, False):
        scheduler, x = fewstep.Scheduler.from_config(SD, "dpmpp_2m"), noise().bfloat16()
        scheduler.set_timesteps(4)
        for i, t in enumerate(scheduler.timesteps):
            x = scheduler.step(noise(seed=i), t, x, return_dict=False)[0]
            x = x.mul_(0.5) if in_place else x * 0.5
        ends.append(x)
    assert torch.equal(*ends)


def test_inference_mode():
    scheduler, x = fewstep.Scheduler.from_config(SD, "unipc"), noise().bfloat16()
    with torch.inference_mode():
        scheduler.set_timesteps(4)
        assert run(scheduler, lambda x, t: 0.5 * x, x).isfinite().all()
    scheduler.set_timesteps(4)
    assert run(scheduler, lambda x, t: 0.5 * x, x).isfinite().all()


@pytest.mark.parametrize("name", TABLES)
def test_a_pipeline_gives_what_sample_gives(name):
    """The scheduler, driven from outside with timesteps only, plays the same table as `sample`, to rounding."""
    scheduler = fewstep.Scheduler.from_config(SD, name, timestep_spacing="trailing")
    scheduler.set_timesteps(9)
    table = scheduler._table.tableau
    denoiser = Denoiser(lambda x, tau: torch.tanh(x + float(tau) / 1000), table.schedule)
    x = noise(3, 2).double()
    one, same = (torch.Generator().manual_seed(2) for _ in range(2))
    got = run(scheduler, lambda x, t: torch.tanh(x + float(t) / 1000), x, generator=one)
    torch.testing.assert_close(got, sample(denoiser, x, table, generator=same), rtol=1e-4, atol=1e-4)


@pytest.fixture
def ancestral():
    """A scheduler that plays DDIM with half its noise fresh in every row, as later solvers will."""
    scheduler = fewstep.Scheduler.from_config(SD, "ddim")
    scheduler.set_timesteps(5)
    bound, table = scheduler._bound, scheduler._bound.tableau
    nodes = [Nodes(*map(float, node)) for node in zip(*table.nodes, strict=True)]
    rows = []
    for s, t in itertools.pairwise(nodes):
        fresh = 0.5**0.5 * t.sigma
        kept = (t.sigma**2 - fresh**2) ** 0.5 / s.sigma
        rows.append(Row(s, "x0", {INPUT: kept, 0: t.alpha - s.alpha * kept, z(s, t): fresh}))
    noisy = Tableau.from_rows("ancestral", table.schedule, rows, nodes[-1], order=1, groups=[1] * 5)
    scheduler._bound = dataclasses.replace(bound, tableau=noisy, steps=lower(noisy, "epsilon"))
    return scheduler


def test_rows_with_noise_draw_it_from_the_generators(ancestral):
    """As `sample` does; a list with one a sample gives every sample what it gets alone, `variance_noise` replaces a draw."""
    problem, bound = Gaussian(0.5, 0.4), ancestral._bound
    denoiser, x = problem.denoiser(bound.tableau.schedule), noise(3, 2)

    def generators(n):
        return [torch.Generator().manual_seed(i) for i in range(n)]

    def play(x, generator, given=None):
        ancestral.set_timesteps(5)
        ancestral._bound = bound
        for i, t in enumerate(ancestral.timesteps):
            output, own = denoiser(x, bound.tableau.times[i]), None if given is None else given[i]
            x = ancestral.step(output, t, x, generator=generator, variance_noise=own, return_dict=False)[0]
        return x

    assert bound.tableau.stochastic
    for make in (lambda: torch.Generator().manual_seed(4), lambda: generators(3)):
        got, want = play(x, make()), sample(denoiser, x, bound.tableau, generator=make())
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(play(x[:1], generators(1)), play(x, generators(3))[:1])
    assert not torch.equal(play(x, generators(3)), play(x, torch.Generator().manual_seed(4)))
    zs = [noise(3, 2, seed=9 + i) for i in range(5)]
    assert torch.equal(play(x, None, zs), play(x, generators(3), zs))


def test_edm_networks_get_a_scaled_input():
    scheduler, x = fewstep.Scheduler.from_config(diffusers.EDMEulerScheduler()), noise()
    assert scheduler.init_noise_sigma == pytest.approx(80)
    assert scheduler.scale_model_input(x, 0.0) is x
    scheduler.set_timesteps(4)
    for i, t in enumerate(scheduler.timesteps):
        scale = (float(scheduler.sigmas[i]) ** 2 + 0.25) ** -0.5
        torch.testing.assert_close(scheduler.scale_model_input(x, t), x * scale)
        x = scheduler.step(0.1 * x, t, x).prev_sample
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(2)
    scale = (float(scheduler.sigmas[2]) ** 2 + 0.25) ** -0.5
    torch.testing.assert_close(scheduler.scale_model_input(x, scheduler.timesteps[2]), x * scale)


def test_clipping_and_thresholding():
    x = 3 * noise(5, 2, 31)
    assert Clip(1.5)(x).abs().max() == 1.5
    for ratio in (0.5, 0.9, 0.995, 1.0):
        q = torch.quantile(x.flatten(1).abs(), ratio, dim=1).clamp(1.0, 2.0).view(-1, 1, 1)
        torch.testing.assert_close(DynamicThreshold(ratio, 2.0)(x), torch.clamp(x, -q, q) / q)
    assert torch.equal(DynamicThreshold(0.5)(0.01 * x), 0.01 * x)


def test_tables_are_compiled_once():
    a, b = (fewstep.Scheduler.from_config(SD, "unipc", order=2) for _ in range(2))
    for scheduler in (a, b, a):
        scheduler.set_timesteps(7)
    assert a._table is b._table and a._bound is b._bound
    b.set_timesteps(8)
    other = fewstep.Scheduler.from_config(SD, "unipc", order=3)
    other.set_timesteps(7)
    assert len({id(s._table) for s in (a, b, other)}) == 3


def test_preparing_again_is_cheap():
    scheduler = fewstep.Scheduler.from_config(SD, "unipc")
    scheduler.set_timesteps(20)
    made = scheduler._table, scheduler._bound
    scheduler.set_timesteps(20)
    assert (scheduler._table, scheduler._bound) == made  # the very objects: nothing is compiled, nothing moved


DEEPFLOYD = {
    "_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon",
    "variance_type": "learned_range", "clip_sample": True, "thresholding": True, "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5,
}  # fmt: skip


def test_thresholding_is_honoured_by_every_solver():
    """DeepFloyd IF's config: clean samples stay in [-1, 1], whatever class the solver's habits come from."""
    seeded = torch.Generator().manual_seed(0)
    x, output = 2 * torch.randn(2, 3, 8, 8, generator=seeded), torch.randn(2, 6, 8, 8, generator=seeded)
    for name in TABLES:
        scheduler = fewstep.Scheduler.from_config(DEEPFLOYD, name)
        scheduler.set_timesteps(8)
        state = x
        for t in scheduler.timesteps:
            state, clean = scheduler.step(output, t, state, return_dict=False)
            assert float(clean.abs().max()) <= 1 + 1e-6, name
