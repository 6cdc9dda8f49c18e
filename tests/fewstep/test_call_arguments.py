"""--prompts FILE and --call KEY=VALUE: what a pipeline is called with, for every command that draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call

from fewstep.arguments import prompts_in, said_call


def test_a_prompt_a_line_or_arguments_a_line(tmp_path: Path) -> None:
    words, lines = tmp_path / "words.txt", tmp_path / "calls.jsonl"
    words.write_text("a cat\n\n  two dogs \nein Haus, é\n", encoding="utf-8")
    assert prompts_in(str(words)) == {"prompt": ["a cat", "two dogs", "ein Haus, é"]}
    calls = [{"prompt": "a cat", "width": 512}, {"width": 768, "prompt": "a dog"}]
    lines.write_text("\n".join(map(json.dumps, calls)), encoding="utf-8")
    assert prompts_in(str(lines)) == {"prompt": ["a cat", "a dog"], "width": [512, 768]}
    said = said_call(str(words), ['negative_prompt=["x", "y", "z"]', "height=64", "guidance_scale=2.5", "style=plain"])
    assert said == {
        "prompt": ["a cat", "two dogs", "ein Haus, é"], "negative_prompt": ["x", "y", "z"], "height": 64,
        "guidance_scale": 2.5, "style": "plain",
    }  # fmt: skip
    assert said_call(None, []) is None


@pytest.mark.slow
def test_commands_that_draw_take_them(tmp_path: Path) -> None:
    """Class labels by seed out of a file, and guidance: the same images as by the short forms."""
    lines = tmp_path / "calls.jsonl"
    lines.write_text('{"class_labels": 3}\n{"class_labels": 5}\n', encoding="utf-8")
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    how = ("--nfe", 2, "-n", 3)
    assert call("sample", "demo", "--prompts", lines, "--call", "guidance_scale=2", "--out", one, *how).exit_code == 0
    assert call("sample", "demo", "--classes", "3,5", "--guidance", 2, "--out", two, *how).exit_code == 0
    assert one.read_bytes() == two.read_bytes()
    told = call("learn", "demo", "--prompts", lines, "--nfe", 3, "--estimate", "--method", "iia", "-n", 8, "--guard", 8)
    assert told.exit_code == 0, told.output
    for command in ("eval", "compare"):
        help_text = call(command, "--help").stdout
        assert "--prompts FILE" in help_text and "--call KEY=VALUE" in help_text


@pytest.mark.parametrize(
    ("content", "how", "said"),
    [
        (None, (), "there is no such file"),
        ("\n", (), "is empty"),
        ('{"class_labels": 1}\n{"class_labels": \n', (), "line 2 is no JSON"),
        ('{"class_labels": 1}\n{"prompt": "a"}\n', (), "line 2: every line names the same arguments, class_labels"),
        ('{"class_labels": 1}\n', ("--call", "class_labels=2"), "class_labels is said twice"),
        ('{"class_labels": 1}\n', ("--classes", "2"), "class_labels is said twice"),
        ('{"class_labels": 1}\n', ("--call", "guidance"), "is not key=value"),
        ('{"class_labels": 1}\n', ("--call", "guidence_scale=2"), "Did you mean 'guidance_scale'"),
        ('{"class_labels": [1, 2]}\n{"class_labels": 1}\n', ("--call", "guidance_scale=[1, 2, 3]"), "one length"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(
    content: str | None, how: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "calls.jsonl"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    told = call("sample", "demo", "--nfe", 2, "-n", 2, "--out", tmp_path / "a.png", "--prompts", file, *how)
    assert told.exit_code == 2 and said in " ".join(told.stderr.split()), told.output
