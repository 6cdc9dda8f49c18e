"""Text pipelines, from prompts to a pipeline that plays what was learned: 32 prompts, negatives, guidance, any batch size."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from worded_pipelines import NAMES, counted, worded

import fewstep
from fewstep.samplers import build
from fewstep.samplers.learned import learn
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.pipeline.prompts import shipped_prompts

PROMPTS = shipped_prompts()[:32]
NEGATIVES = [f"blurred {k}" for k in range(32)]
QUICK: dict[str, Any] = {
    "nfe": 3, "method": "iia", "seeds": range(32), "guard_seeds": range(1000, 1008), "progress": False,
    "teacher": {"nfe": 40}, "cache": False,
}  # fmt: skip


def called(name: str) -> tuple[Any, dict[str, Any]]:
    pipe, rest = worded(name)
    with torch.no_grad():  # random networks are too rough for any reference
        network = pipe.unet if name in ("sd", "sdxl") else pipe.transformer
        for weight in network.parameters():
            weight.mul_(0.5)
    return pipe, {**rest, "prompt": PROMPTS, **({} if name == "flux" else {"negative_prompt": NEGATIVES})}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_learned_saved_and_played(name: str, tmp_path: Path) -> None:
    """The same tables in any batch size, the guard's verdict, and the file in the pipeline's own call."""
    pipe, call = called(name)
    seen = counted(pipe)
    made = [learn(pipe, call=call, batch_size=size, **QUICK) for size in (3, 8)]
    one, *others = (artefact.tables[0].tableau for artefact in made)
    for other in others:
        assert torch.allclose(torch.tensor(one.W), torch.tensor(other.W), atol=1e-4), "learned, the same"
        assert abs(one.times - other.times).max() < 1e-9
    encoders = sum("text_encoder" in part and own is not None for part, own in pipe.components.items())
    assert seen[0] <= 2 * encoders * 32 * (1 if name == "flux" else 2), "a prompt is encoded once a learning"
    told = made[0]
    assert told.tables[0].status in ("learned", "no-gain") and told.report["test"]
    assert told.model["domain"]["guidance"]["guidance_scale"] == [call["guidance_scale"]]
    assert told.provenance["samples"]["prompt"] == PROMPTS
    told.save(tmp_path / "three.json")
    own = copy.copy(pipe)
    own.scheduler = fewstep.Scheduler.from_config(
        pipe.scheduler.config, learned=str(tmp_path / "three.json"), policy="refuse"
    )
    single = {key: value[5] if isinstance(value, list) else value for key, value in call.items()}
    single["output_type"] = "latent"
    latents = own(**single, num_inference_steps=3, generator=torch.Generator().manual_seed(5))[0]
    alone, problem = Problem(pipe, call=call, batch_size=1), Problem(pipe, call=call, batch_size=8)
    want = problem.drawn(told.table(3), problem.parts(range(8))[0])[5]
    near = 1e-5 * float(want.abs().max())
    assert float((latents[0] - want).abs().max()) <= near
    assert float((alone.drawn(told.table(3), alone.part([5]))[0] - want).abs().max()) <= near
    with pytest.raises(ValueError, match="not learned for this run: guidance_scale"):
        own(**{**single, "guidance_scale": 9.0}, num_inference_steps=3)


def test_without_words_the_shipped_prompts_are_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    pipe, rest = worded("sd")
    problem = Problem(pipe, call=rest)
    assert capsys.readouterr().err.startswith("drawing from the 64 prompts that come with fewstep")
    assert problem.conditions["prompt"] == shipped_prompts() and len(set(shipped_prompts())) == 64
    Problem(fewstep.load_demo_pipeline(), classes=[1])
    assert capsys.readouterr().err == ""


def test_parts_are_by_size_and_scale() -> None:
    """Seeds of one size and scale are parts of their own; what is drawn alone is drawn there."""
    pipe, rest = worded("sd")
    call = {**rest, "prompt": PROMPTS[:4], "height": [32, 64, 32, 64], "guidance_scale": [2.0, 2.0, 2.0, 5.0]}
    problem = Problem(pipe, call=call, batch_size=4)
    assert [part.seeds for part in problem.parts(range(8))] == [(0, 2, 4, 6), (1, 5), (3, 7)]
    assert problem.part(range(8)).seeds == (0, 2, 4, 6)
    assert problem.domain["shapes"] == [[4, 16, 16], [4, 32, 16]]
    assert problem.domain["guidance"]["guidance_scale"] == [2.0, 5.0]


@pytest.mark.slow
def test_methods_learn_on_several_sizes() -> None:
    """Parts of several shapes are learned on together; statistics of every element are not, and say so."""
    pipe, rest = worded("flux")
    call = {**rest, "prompt": PROMPTS[:4], "width": [32, 64, 32, 64], "guidance_scale": [2.0, 3.5, 3.5, 3.5]}
    problem = Problem(pipe, call=call, batch_size=8)
    task = Task(problem, Teacher(problem, nfe=12, cache=False), 3, train=tuple(range(16)), valid=tuple(range(16, 24)))
    base = build("dpmpp_2m", problem.schedule, 3, t_start=problem.t_start, t_end=problem.t_end)
    task.offer(base)
    for method, options in (
        ("iia", {}),
        ("oss", {"samples": 12, "nodes": 8}),
        ("joint", {"steps": 2, "free": ("grid",)}),
    ):
        task.run(method, base, **options)
    assert task.best_score < task.base_score
    with pytest.raises(ValueError, match="of one shape; the samples have"):
        task.run("ems", base)
