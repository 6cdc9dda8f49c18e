"""What sampling costs beside the network: tensor operations, reads of the device, graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from operations import Operations, cost
from problems import BLIND, PREDICTIONS
from torch import Tensor

from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, Tableau, build, sample
from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.noise.sources import NoiseSource, source
from fewstep.samplers.run.lowering import MOST_OPERATIONS, lower
from fewstep.samplers.run.step import State, Step

VP, EDM, FLOW = NoiseSchedule.vp_linear(), NoiseSchedule.edm(), NoiseSchedule.flow()
NAMES = [name for name, entry in SOLVERS.items() if entry.kind == "tableau"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.one_in(3)
def test_at_most_four_operations_a_step_and_none_reads_the_device(name: str) -> None:
    x = torch.randn(2, 4, 8, 8)
    wide = torch.randn(2, 8, 8, 8)[:, :4]  # a learned-variance output is a view of its first half
    for schedule in (VP, EDM, FLOW):
        for nfe, output in ((1, wide), (2, x), (5, x), (24, wide)):
            table = build(name, schedule, nfe)
            for prediction in PREDICTIONS:
                if prediction in BLIND and schedule is FLOW:
                    continue
                for names in cost(lower(table, prediction), x, output):
                    assert len(names) <= MOST_OPERATIONS == 4, names
                    assert not {"_local_scalar_dense", "_to_copy", "copy_", "item"} & set(names), names


def test_operations_of_well_known_solvers() -> None:
    """The network's output is converted within the row where no later row reads it."""
    x = torch.randn(2, 4, 8, 8)
    most = {("ddim", "epsilon"): 2, ("dpm_2", "epsilon"): 2, ("dpmpp_2m", "sample"): 3, ("heun", "epsilon"): 3}
    for (name, prediction), count in most.items():
        assert max(map(len, cost(lower(build(name, VP, 20), prediction), x, x))) == count


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.one_in(3)
def test_sampling_reads_the_device_once_or_never(name: str) -> None:
    denoiser, x = Denoiser(lambda x, tau: torch.tanh(x) * tau, VP, "sample"), torch.randn(2, 3)
    for check, reads in (("none", 0), ("end", 1), ("each", 12)):
        with Operations() as operations:
            sample(denoiser, x, name, 12, check=check)
        assert operations.names.count("_local_scalar_dense") == reads


COMPILED = ("ddim", "dpmpp_2m", "unipc", "heun", "etd_rk4")


@pytest.mark.parametrize("name", [n if n in COMPILED else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_a_call_and_its_step_compile_into_one_graph(name: str) -> None:
    """fullgraph=True raises at any break; a run six times as long needs no graph that the short one did not.

    Of published rows: the limiter takes the long steps of short runs in another form.
    """
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    denoiser = Denoiser(lambda x, tau: torch.tanh(x) * tau, VP, "sample")

    @torch.compile(backend=backend, fullgraph=True)
    def advance(step: Step, state: State, noises: list[Tensor]) -> State:
        return step.__call__(
            state, denoiser.call(state.input, step.model_time), noises
        )  # step(): torch 2.6 guards its id

    def play(table: Tableau) -> Tensor:
        state = State(x, x)
        for step in lower(table, "sample"):
            state = advance(step, state, [noise(draw, x) for draw in step.draws])
        return state.input

    x, noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), NoiseSource([0, 1])
    short, long = (build(name, VP, nfe, limiter=False) for nfe in (24, 144))
    config: Any = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # before torch 2.7
    with config.patch({limit: 24}):  # pndm has 17 kinds of row
        assert torch.allclose(play(short), sample(denoiser, x, short, noise_seeds=[0, 1]), rtol=1e-5, atol=1e-6)
        kinds = len(graphs)
        assert kinds <= (17 if name == "pndm" else 8)
        play(long)
        assert len(graphs) == kinds


@pytest.mark.parametrize("kind", ["independent", "brownian"])
@pytest.mark.parametrize("seeds", [None, [1, 2]])
def test_noise_takes_at_most_two_operations_and_reads_nothing(kind: str, seeds: list[int] | None) -> None:
    for dtype in (torch.float32, torch.float64, torch.float16):
        x = torch.zeros(2, 4, 8, 8, dtype=dtype)
        noise = source(kind, seeds, torch.Generator().manual_seed(0), 2)
        with Operations() as operations:
            noise(Draw(1, 0, -1.0, 0.5), x)
        assert len(operations.names) <= 2 and "_local_scalar_dense" not in operations.names, operations.names
