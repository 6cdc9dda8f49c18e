"""Tables that leave blocks of the network out: what is computed, what stands for the rest, and that nothing stays behind."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from chains import INNER, VP, Chain, cache, cached, chain, noise
from torch import Tensor

import fewstep
from fewstep import adjoint, sample
from fewstep.output.seal import SEAL
from fewstep.samplers import Artefact, BlockCache, Denoiser, Learned, build, guidance
from fewstep.samplers.blocks.finding import inner_blocks, network_of

SOME = {2: [1.5, -0.5], 4: [2.0, -1.5, 0.5], 5: [1.0]}


def test_a_table_that_leaves_nothing_out_is_the_plain_one() -> None:
    network, denoiser = chain()
    for solver in ("dpmpp_2m", "heun", "ddpm"):
        plain, whole = build(solver, VP, 6), cached({}, solver=solver)
        found = [sample(denoiser, noise(3), table, noise_seeds=[1, 2, 3]) for table in (plain, whole)]
        assert torch.equal(*found) and whole.cost == whole.nfe == plain.cost == 6
    assert not any("forward" in vars(block) for block in network.blocks)


def test_features_by_hand() -> None:
    """A network written out, whose inner blocks add a sum of what they added before: the same samples."""
    network, denoiser = chain()
    table = cached(SOME)
    kept: list[Tensor] = []
    rows = iter(range(6))

    def by_hand(x: Tensor, tau: Tensor) -> Tensor:
        k = next(rows)
        h = network.blocks[0](network.first(x.flatten(1)), tau / 1000)
        if k in SOME:
            added = sum(w * f for w, f in zip(SOME[k], kept[::-1], strict=False))
        else:
            out = h
            for block in network.blocks[1:4]:
                out = block(out, tau / 1000)
            added = out - h
            kept.append(added)
        h = network.blocks[4](h + added, tau / 1000)
        return torch.tanh(network.last(h)).view(x.shape)

    wanted = sample(Denoiser(by_hand, VP, "sample"), noise(3), replace(table, cache=None))
    found, plain = sample(denoiser, noise(3), table), sample(denoiser, noise(3), replace(table, cache=None))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    assert float((found - plain).abs().max()) > 1e-4


def test_what_does_not_change_is_kept() -> None:
    """Weights sum to one: features that are the same in every row are had exactly."""
    _, denoiser = chain("still")
    table = cached(SOME)
    found, plain = sample(denoiser, noise(3), table), sample(denoiser, noise(3), replace(table, cache=None))
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-13)


def test_a_block_that_is_left_out_is_not_computed_and_nothing_stays() -> None:
    network, denoiser = chain()
    sample(denoiser, noise(2), cached(SOME))
    assert network.counts == [6, 3, 3, 3, 6]
    assert not any("forward" in vars(block) for block in network.blocks)
    own = network.blocks[2].forward = network.blocks[2].forward  # as libraries that move weights leave there

    def stops(progress: object) -> None:
        assert "forward" in vars(network.blocks[1])
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        sample(denoiser, noise(2), cached(SOME), callback=stops)
    assert [name for name, block in network.named_modules() if "forward" in vars(block)] == ["blocks.2"]
    assert network.blocks[2].forward is own


def test_a_sample_is_the_same_in_any_batch_and_keeps_its_dtype() -> None:
    _, denoiser = chain()
    table, x = cached(SOME), noise(5)
    whole = sample(denoiser, x, table)
    alone = torch.cat([sample(denoiser, one[None], table) for one in x])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-13)
    half = Denoiser(Chain().bfloat16().requires_grad_(False), VP, "sample")
    found = sample(half, noise(5, torch.bfloat16), table)
    assert found.dtype == torch.bfloat16
    assert float((found.double() - whole).abs().max()) < 0.1


def test_runs_beside_one_another_do_not_meet() -> None:
    """One network, two tables and the plain one in threads: each as alone."""
    _, denoiser = chain()
    tables = [cached(SOME), cached({3: [1.0]}), build("dpmpp_2m", VP, 6)] * 4
    alone = [sample(denoiser, noise(4), table) for table in tables]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda table: sample(denoiser, noise(4), table), tables))
    assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))
    assert not any("forward" in vars(module) for module in denoiser.fn.modules())


def test_guidance_that_asks_twice_has_features_of_each() -> None:
    """Two calls of the network in a row, or one of both together: the same."""
    network, _ = chain()

    def twice(x: Tensor, tau: Tensor) -> Tensor:
        return 2 * network(x, tau) - network(0.5 * x, tau)

    def once(x: Tensor, tau: Tensor) -> Tensor:
        first, second = network(torch.cat([x, 0.5 * x]), tau).chunk(2)
        return 2 * first - second

    table = cached(SOME)
    found = [sample(Denoiser(fn, VP, "sample"), noise(3), table) for fn in (twice, once)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-13)


def test_groups_are_left_out_by_themselves() -> None:
    network, denoiser = chain()
    w = np.zeros((4, 2, 1))
    w[1, 0] = w[2, 1] = 1.0
    two = BlockCache((("blocks.1",), ("blocks.2", "blocks.3")), w, np.array([1, 0.8, 0.6, 1]))
    sample(denoiser, noise(2), table := replace(build("ddim", VP, 4), cache=two))
    assert network.counts == [4, 3, 3, 3, 4] and abs(table.cost - 3.4) < 1e-12
    assert "computed in 2 of 4 rows, cost 3.4 evaluations" in str(table)


def test_the_file_plays_the_same(tmp_path: Path) -> None:
    _, denoiser = chain()
    table = cached(SOME)
    table.save(tmp_path / "table.json")
    artefact = Artefact((Learned(table),), {"prediction": "sample"})
    artefact.save(tmp_path / "artefact.json")
    wanted = sample(denoiser, noise(3), table)
    for path in ("table.json", "artefact.json"):
        assert torch.equal(sample(denoiser, noise(3), fewstep.load(tmp_path / path)), wanted)
    assert artefact.tables[0].moved == ("cache",) and artefact.tables[0].kind == "cache"
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["version"] == 3  # which releases without it refuse
    content["cache"]["weights"][2][0][0] = 1.7
    (tmp_path / "changed.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="changed"):
        fewstep.load(tmp_path / "changed.json")
    del content[SEAL]
    (tmp_path / "by_hand.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="sum to one"):
        fewstep.load(tmp_path / "by_hand.json")


@pytest.mark.parametrize(
    ("weights", "groups", "said"),
    [
        ({0: [1.0]}, INNER, "features that earlier rows have computed"),
        ({2: [0.5, 0.2]}, INNER, "sum to one"),
        ({1: [2.0, -1.0]}, INNER, "features that earlier rows have computed"),
        ({2: [float("nan")]}, INNER, "finite"),
        ({2: [1.0]}, (("blocks.1", "blocks.1.linear"),), "lies in block"),
        ({2: [1.0]}, ((),), "paths of modules in groups"),
    ],
)
def test_a_wrong_cache_is_refused(
    weights: dict[int, list[float]], groups: tuple[tuple[str, ...], ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        cache(weights, groups=groups)


@pytest.mark.filterwarnings("ignore:tables learned on")
def test_what_cannot_play_it_says_so() -> None:
    network, denoiser = chain()
    table, x = cached(SOME), noise(2)
    with pytest.raises(ValueError, match="has 6 rows; expected 4"):
        replace(build("ddim", VP, 4), cache=table.cache)
    with pytest.raises(ValueError, match="leaves blocks of the network out"):
        adjoint.sample(denoiser, x.requires_grad_(), table)
    with pytest.raises(ValueError, match="in one call"):
        many = Denoiser(network, VP, "sample", vector_time=True)
        sample(many, x, table, parallel=True)
    with pytest.raises(ValueError, match="no network is found behind"):
        sample(Denoiser(lambda x, tau: 0 * x, VP, "sample"), x, table)
    with pytest.raises(ValueError, match="leaves out 'blocks.1' and 2 other blocks, and Linear has no such block"):
        linear = torch.nn.Linear(4, 4).double()
        sample(Denoiser(lambda x, tau: linear(x), VP, "sample"), x, table)
    with pytest.raises(ValueError, match="2 networks have the block"):
        other, _ = chain()
        sample(Denoiser(lambda x, tau: network(x, tau) + other(x, tau), VP, "sample"), x, table)
    with pytest.raises(ValueError, match="cannot be moved"):
        Artefact((Learned(table),), {"prediction": "sample"}).remapped(fewstep.NoiseSchedule.flow())


def test_a_batch_or_guidance_that_changes_on_the_way_is_told() -> None:
    network, _ = chain()
    calls = iter([1, 1, 2, 2, 2, 2])

    def widening(x: Tensor, tau: Tensor) -> Tensor:
        return network(x.repeat(next(calls), 1, 1, 1), tau)[: len(x)]

    with pytest.raises(ValueError, match="must stay the same through a run"):
        sample(Denoiser(widening, VP, "sample"), noise(2), cached(SOME))
    asks = iter([1, 1, 2, 2, 2, 2])

    def oftener(x: Tensor, tau: Tensor) -> Tensor:
        return sum(network(x, tau) for _ in range(next(asks)))

    with pytest.raises(ValueError, match="asks the network more often"):
        sample(Denoiser(oftener, VP, "sample"), noise(2), cached(SOME))


def test_a_block_that_is_compiled_by_itself_cannot_be_left_out() -> None:
    network, denoiser = chain()
    network.blocks[2].compile(backend="eager")
    with pytest.raises(ValueError, match="compiled by itself"):
        sample(denoiser, noise(2), cached(SOME))


def test_inner_blocks_of_networks_people_have() -> None:
    from diffusers import DiTTransformer2DModel, FluxTransformer2DModel, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8, 8), norm_num_groups=4, layers_per_block=1, attention_head_dim=4,
        down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3,
    )  # fmt: skip
    assert inner_blocks(unet) == (("down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1"),)
    dit = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=1, out_channels=1, num_layers=4, sample_size=8,
        norm_num_groups=1, num_embeds_ada_norm=10,
    )  # fmt: skip
    assert inner_blocks(dit) == (("transformer_blocks.1", "transformer_blocks.2"),)
    flux = FluxTransformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=3, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    (group,) = inner_blocks(flux)
    assert group == ("transformer_blocks.1", "single_transformer_blocks.0", "single_transformer_blocks.1")
    with pytest.raises(ValueError, match="no chain of blocks is found in Linear"):
        inner_blocks(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("wrap", ["method", "closure", "partial", "guided"])
def test_the_network_behind_a_denoiser_is_found(wrap: str) -> None:
    network, denoiser = chain()
    behind = {
        "method": Denoiser(network.forward, VP, "sample"),
        "closure": Denoiser(lambda x, tau: network(x, tau), VP, "sample"),
        "partial": Denoiser(partial(lambda net, x, tau: net(x, tau), network), VP, "sample"),
        "guided": guidance.cfg(denoiser, denoiser, 2.0),
    }[wrap]
    assert network_of(behind) is network
    sample(behind, noise(1), cached(SOME))
    calls = 2 if wrap == "guided" else 1
    assert network.counts == [6 * calls, 3 * calls, 3 * calls, 3 * calls, 6 * calls]
