"""The 64 prompts that come with the library, for models that draw from words where nobody says what."""

from __future__ import annotations

import sys
from pathlib import Path

from fewstep.samplers.pipeline.calls import words_in
from fewstep.samplers.pipeline.source import Source

FILE = Path(__file__).with_name("prompts.txt")


def shipped_prompts() -> list[str]:
    """Photographs, drawings, counts, words in pictures, people, places, materials, nothing in particular; six languages."""
    return [line for line in FILE.read_text(encoding="utf-8").splitlines() if line.strip()]


def with_prompts(source: Source) -> Source:
    """The source itself, or, where it draws from words and was told none, one that draws from ours, which is said."""
    accepted, given = source.accepted, source.wishes
    if "prompt" not in accepted or given["prompt"] is not None or words_in(given.get("call") or {}):
        return source
    prompts = shipped_prompts()
    print(
        f"drawing from the {len(prompts)} prompts that come with fewstep; prompt= or call= takes yours", file=sys.stderr
    )
    return source.wishing(prompt=prompts)
