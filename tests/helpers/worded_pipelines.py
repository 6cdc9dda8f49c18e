"""The tiny pipelines of `pipelines.py` with text encoders of their own, so that they draw from words, and count how often.

`worded(name)` -> (pipeline, call without words); name: sd, sdxl, sd3 or flux.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from parts import PIXELS_OUT, SIZE
from pipelines import PIPELINES

LENGTH, WIDTH = 8, 8  # of a prompt in tokens, of an embedding
NAMES = ("sd", "sdxl", "sd3", "flux")


class Letters:
    """A tokenizer of letters: padded to LENGTH."""

    model_max_length = LENGTH

    def __call__(self, prompt: Any, **_: Any) -> Any:
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        ids = torch.zeros(len(texts), LENGTH, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            for k, letter in enumerate(text[: LENGTH - 1]):
                row[k] = 2 + ord(letter) % 60
            row[min(len(text), LENGTH - 1)] = 63
        return SimpleNamespace(input_ids=ids, attention_mask=torch.ones_like(ids))

    added_tokens_encoder: dict[str, int] = {}

    def tokenize(self, prompt: str) -> list[str]:
        return list(prompt)

    def batch_decode(self, ids: Any) -> list[str]:
        return [""] * len(ids)


def _clip(projected: bool, width: int = WIDTH) -> Any:
    import transformers  # slow to import, and not while tests are collected

    config = transformers.CLIPTextConfig(
        vocab_size=64, hidden_size=width, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH, projection_dim=width, eos_token_id=63, bos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)


def _t5(width: int) -> Any:
    import transformers

    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=64, d_model=width, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )


def worded(name: str) -> tuple[Any, dict[str, Any]]:
    pipe, call = PIPELINES[name].make()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        encoders = {
            "sd": lambda: {"text_encoder": _clip(False)},
            "sdxl": lambda: {"text_encoder": _clip(False, 4), "text_encoder_2": _clip(True, 4)},
            "sd3": lambda: {"text_encoder": _clip(True, 4), "text_encoder_2": _clip(True, 4), "text_encoder_3": _t5(8)},
            "flux": lambda: {"text_encoder": _clip(False), "text_encoder_2": _t5(8)},
        }[name]()
        if name == "sdxl":  # the pooled embedding has the width of the second encoder alone
            pipe.unet.add_embedding.linear_1 = torch.nn.Linear(6 * 8 + 4, pipe.unet.add_embedding.linear_1.out_features)
    for part in (*encoders.values(), *(p for p in pipe.components.values() if isinstance(p, torch.nn.Module))):
        part.eval().requires_grad_(False)
    tokenizers = {part.replace("text_encoder", "tokenizer"): Letters() for part in encoders}
    for part, value in {**encoders, **tokenizers}.items():
        setattr(pipe, part, value)
    if name in ("sd3", "flux"):
        pipe.tokenizer_max_length = LENGTH
    rest = {**SIZE, **PIXELS_OUT, "guidance_scale": call["guidance_scale"]}
    return pipe, {**rest, **({"max_sequence_length": LENGTH} if name in ("sd3", "flux") else {})}


def counted(pipe: Any) -> list[int]:
    """[samples that the text encoders of a pipeline have been shown]."""
    seen = [0]

    def count(_: Any, inputs: Any, named: Any) -> None:
        seen[0] += len(inputs[0] if inputs else named["input_ids"])

    for name, part in pipe.components.items():
        if "text_encoder" in name and part is not None:
            part.register_forward_pre_hook(count, with_kwargs=True)
    return seen
