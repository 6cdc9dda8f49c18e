"""Tables with a feature cache within a pipeline: the scheduler knows the row, and this knows the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn import Module

from fewstep.samplers.blocks.block_run import BlockRun
from fewstep.samplers.blocks.finding import network_with
from fewstep.samplers.blocks.patching import Forward, at_work, patched


class PipelineRun:
    """A BlockRun for each run of a scheduler; `networks`: id of a cache -> the network whose blocks it leaves out."""

    def __init__(self, scheduler: Any, networks: dict[int, Module]):
        self.scheduler, self.networks = scheduler, networks
        self.run: BlockRun | None = None
        self.times: Any = None  # of the scheduler's run: set_timesteps makes others

    def ask(self, block: Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As BlockRun.ask, in the row that the scheduler is at."""
        cache, k = self.scheduler.block_row
        if cache is None:
            return forward(*args, **kwargs)
        if self.run is None or self.run.cache is not cache or self.times is not self.scheduler.timesteps:
            self.run, self.times = BlockRun(cache, self.networks[id(cache)]), self.scheduler.timesteps
            self.run.begin(k)
        elif k != self.run.k:
            self.run.begin(k)
        return self.run.ask(block, forward, args, kwargs)


@contextmanager
def feature_cache(pipe: Any, scheduler: Any = None) -> Iterator[None]:
    """Within, a pipeline leaves out the blocks that its scheduler's table leaves out; nothing stays on the network.

        pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, learned="eight.json")
        with feature_cache(pipe):
            images = pipe("a lighthouse", num_inference_steps=8).images

    Args:
        pipe: a diffusers pipeline, or the network itself in a loop of one's own. scheduler: fewstep's, where it is not the
            pipeline's.

    Raises:
        ValueError: a scheduler that is not fewstep's, or plays no table with a feature cache; no network with its blocks.
    """
    owner = getattr(pipe, "scheduler", None) if scheduler is None else scheduler
    caches = getattr(owner, "block_caches", None)
    if caches is None:
        raise ValueError(
            f"a feature cache is part of a table that fewstep's Scheduler plays; got {type(owner).__name__}: pipe.scheduler = "
            "Scheduler.from_config(pipe.scheduler.config, learned=artefact)"
        )
    if not caches:
        raise ValueError(
            "this scheduler plays no table with a feature cache: learn one, learn(pipe, method='l2p'), or leave this away"
        )
    networks = {id(cache): network_with(pipe, cache.blocks) for cache in caches}
    blocks = [networks[id(cache)].get_submodule(name) for cache in caches for name in cache.blocks]
    with patched(list({id(block): block for block in blocks}.values())), at_work(PipelineRun(owner, networks)):
        yield
