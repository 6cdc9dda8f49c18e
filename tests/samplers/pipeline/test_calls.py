"""Any call of a pipeline, a condition for each seed: sample i is a function of seed i in any batch; words are encoded once."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from parts import PIXELS, embeds
from pipelines import PIPELINES
from worded_pipelines import NAMES, counted, worded

from fewstep.samplers.pipeline.calls import Calls
from fewstep.samplers.pipeline.encoding import Encoded
from fewstep.samplers.pipeline.source import Source

PROMPTS = ["a cat", "two dogs", "ein Haus am See", "", "three cars"]
NEGATIVES = ["blurred", "", "ugly", "dark", "grey"]


def drawn(source: Source, seeds: range) -> list[torch.Tensor]:
    """x0 of each seed."""
    return [x0 for batch in source.batches(seeds) for x0 in batch.draw(solver="dpmpp_2m", nfe=2)]


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """To 1e-5 of the largest number: random networks make large ones."""
    return one.shape == other.shape and float((one - other).abs().max()) <= 1e-5 * float(one.abs().max())


def same_in_any_batch(pipe: Any, call: dict[str, Any], seeds: range = range(7)) -> list[torch.Tensor]:
    found = [drawn(Source(pipe, call=call, batch_size=size), seeds) for size in (1, 3, 8)]
    for other in found[1:]:
        assert all(map(near, found[0], other))
    return found[0]


def apart(samples: list[torch.Tensor], one: int, other: int) -> bool:
    return float((samples[one] - samples[other]).abs().max()) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_words_by_seed(name: str) -> None:
    """Prompts with negatives, and each encoded once for all batches, restarts and sources' sizes."""
    pipe, rest = worded(name)
    negatives = {} if name == "flux" else {"negative_prompt": NEGATIVES}
    same_in_any_batch(pipe, {**rest, "prompt": PROMPTS, **negatives})
    source, seen = Source(pipe, call={**rest, "prompt": PROMPTS, **negatives}, batch_size=3), counted(pipe)
    first = drawn(source, range(5))
    once = seen[0]
    encoders = sum("text_encoder" in part and own is not None for part, own in pipe.components.items())
    assert once <= encoders * len(PROMPTS) * (2 if negatives else 1)
    for size in (1, 2, 5):
        source.batch_size = size
        again = drawn(source, range(10))[:5]
        assert all(map(near, first, again))
    assert seen[0] == once, "nothing was encoded again"
    other = drawn(Source(pipe, call={**rest, "prompt": PROMPTS[1:] + PROMPTS[:1], **negatives}), range(5))
    assert max(float((a - b).abs().max()) for a, b in zip(first, other, strict=True)) > 1e-4


def test_a_trained_encoder_encodes_again() -> None:
    pipe, rest = worded("sd")
    source = Source(pipe, call={**rest, "prompt": PROMPTS})
    first = drawn(source, range(2))
    with torch.no_grad():
        for weight in pipe.text_encoder.parameters():
            weight.mul_(1.5)
    assert not torch.allclose(first[0], drawn(source, range(2))[0], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_memory_of_words_is_the_pipelines_own_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put together out of single prompts is what the pipeline encodes for all of them."""
    pipe, rest = worded(name)
    ours = drawn(Source(pipe, call={**rest, "prompt": PROMPTS}), range(5))
    monkeypatch.setattr(Encoded, "of", lambda *_: None)
    theirs = drawn(Source(pipe, call={**rest, "prompt": PROMPTS}), range(5))
    assert all(map(near, ours, theirs))


def test_embeddings_masks_and_scales_by_seed() -> None:
    """Lists of embeddings (1, ...), of masks, and of values of the whole call, which part the batches."""
    pipe, call = PIPELINES["sdxl"].make()
    several = {
        name: [embeds(*value.shape, seed=k) for k in range(3)]
        for name, value in call.items()
        if isinstance(value, torch.Tensor)
    }
    samples = same_in_any_batch(pipe, {**call, **several, "guidance_scale": [1.5, 3.0, 3.0]})
    assert apart(samples, 0, 3)
    pipe, call = PIPELINES["pixart"].make()
    mask = torch.ones(1, 7, dtype=torch.long)
    short = mask.clone()
    short[:, 4:] = 0
    masked = {"prompt_embeds": [embeds(1, 7, 8, seed=k) for k in range(2)], "prompt_attention_mask": [mask, short]}
    same_in_any_batch(pipe, {**call, **masked}, range(4))


def test_sizes_by_seed() -> None:
    """Seeds of one size go together; a pair is one value where pipelines take pairs."""
    pipe, rest = worded("sdxl")
    call = {**rest, "prompt": PROMPTS[:2], "width": [PIXELS, 2 * PIXELS], "original_size": (PIXELS, PIXELS)}
    samples = same_in_any_batch(pipe, call, range(5))
    assert [tuple(x.shape) for x in samples[:2]] == [(4, 16, 16), (4, 16, 32)]
    calls = Calls(pipe, call)
    assert calls.alike(range(5), 8) == [[0], [1], [2], [3], [4]]
    assert calls.alike(range(5), 8, apart=False) == [[0, 2, 4], [1, 3]]
    pairs = Calls(pipe, {**call, "original_size": [(8, 8), (16, 16)]})
    assert pairs.together([1, 3])["original_size"] == (16, 16)


@pytest.mark.parametrize("name", ["sd_controlnet", "sd_img2img", "sdxl_img2img", "sd3_img2img", "flux_img2img"])
def test_images_by_seed(name: str) -> None:
    """Input and control images: one for all, and one a seed."""
    pipe, call = PIPELINES[name].make()
    images = [torch.rand(1, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    one = same_in_any_batch(pipe, call, range(4))
    several = same_in_any_batch(pipe, {**call, "image": images}, range(4))
    assert name == "sd_controlnet" or not all(map(near, one, several)), "one that is not trained yet adds zeros"


def test_images_of_adapters_come_a_list_an_adapter() -> None:
    from PIL import Image

    pictures = [Image.new("RGB", (8, 8), (k, 0, 0)) for k in range(3)]
    pipe, _ = PIPELINES["sd"].make()
    assert Calls(pipe, {"ip_adapter_image": pictures}).together([1, 2]) == {"ip_adapter_image": [pictures[1:]]}
    pairs = [[pictures[0], pictures[1]], [pictures[2], pictures[0]]]
    found = Calls(pipe, {"ip_adapter_image": pairs}).together([0, 1])["ip_adapter_image"]
    assert found == [[pictures[0], pictures[2]], [pictures[1], pictures[0]]]
    halves = [[torch.stack([torch.full((4,), -float(k)), torch.full((4,), float(k))])[:, None, None]] for k in range(2)]
    (found,) = Calls(pipe, {"ip_adapter_image_embeds": halves}).together([0, 1])["ip_adapter_image_embeds"]
    assert found[:, 0, 0, 0].tolist() == [0, -1, 0, 1], "the refused halves, then the wanted"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"prompt": ["a", "b", "c"], "negative_prompt": ["x", "y"]}, "`negative_prompt` has 2, `prompt` has 3"),
        ({"prompt": []}, "the list of `prompt` is empty"),
        ({"prompt": "a", "generator": 3}, "`generator` is no argument for numbered samples"),
        ({"prompt": "a", "num_images_per_prompt": 2}, "a seed has one sample"),
        ({"prompt": "a", "guidence_scale": 2.0}, "Did you mean 'guidance_scale'"),
        ({"prompt_embeds": [torch.zeros(2, 7, 8)]}, r"each entry must be of one sample, \(1, ...\); got \(2, 7, 8\)"),
    ],
)
def test_what_is_no_call_is_refused(call: dict[str, Any], said: str) -> None:
    pipe, _ = PIPELINES["sd"].make()
    with pytest.raises(ValueError, match=said):
        Source(pipe, call=call).batches(range(2))


def test_short_forms_and_call_do_not_contradict() -> None:
    pipe, rest = worded("sd")
    with pytest.raises(ValueError, match="prompt is said twice, as `prompt` and in `call`"):
        Source(pipe, prompt="a", call={"prompt": ["b"]}).batches([0])
    short, long = Source(pipe, prompt=PROMPTS, call=rest), Source(pipe, call={**rest, "prompt": PROMPTS})
    assert all(torch.equal(a, b) for a, b in zip(drawn(short, range(3)), drawn(long, range(3)), strict=True))
    json.dumps(long.content)
