"""What is drawn from a pipeline is drawn in eval mode, and every module has its own mode afterwards."""

import pytest
import torch

import fewstep
from fewstep.samplers.pipeline.eval_mode import in_eval_mode, modules_of


def source():
    """Of pipelines: slow to import."""
    from fewstep.samplers.pipeline import source

    return source


class Merging(torch.nn.Linear):
    """As an adapter that merges its weights when it is evaluated."""

    merged = False

    def train(self, mode=True):
        self.merged = not mode
        return super().train(mode)


def network():
    made = torch.nn.Sequential(
        torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout(), Merging(2, 2)), Merging(2, 2)
    )
    made.train()
    made[1].eval()
    made[1][0].train()
    made[2].train()
    return made


def test_modes_come_back_one_by_one_after_an_error_too():
    made = network()
    modes = [m.training for m in made.modules()]
    with pytest.raises(KeyError), in_eval_mode(made):
        assert not any(m.training for m in made.modules()) and made[2].merged
        raise KeyError
    assert [m.training for m in made.modules()] == modes
    assert not made[2].merged and made[1][1].merged


def test_what_has_networks():
    made = network()
    assert modules_of(made)[0] is made and modules_of("demo") == [] and modules_of(None) == []
    holder = type("Pipe", (), {})()
    holder.unet, holder.scheduler = made, object()
    assert len(modules_of(holder)) == len(list(made.modules()))


def test_a_batch_is_drawn_without_dropout():
    pipe = fewstep.load_demo_pipeline()
    for module in pipe.unet.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    want = source().Source(pipe, classes=[1, 2]).batches([0, 1])[0].draw(solver="ddim", nfe=2)
    pipe.unet.train()
    pipe.unet.mid_block.eval()
    modes = [m.training for m in pipe.unet.modules()]
    assert torch.equal(source().Source(pipe, classes=[1, 2]).batches([0, 1])[0].draw(solver="ddim", nfe=2), want)
    with pytest.raises(ValueError, match="nfe"):
        source().Source(pipe, classes=[1, 2]).batches([0, 1])[0].draw(solver="ddim", nfe=0)
    assert [m.training for m in pipe.unet.modules()] == modes


def test_a_pipeline_is_loaded_without_touching_the_global_generator():
    before = torch.get_rng_state()
    fewstep.load_demo_pipeline()
    source().Source("demo")
    assert torch.equal(before, torch.get_rng_state())
