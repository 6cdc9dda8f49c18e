"""Wrong usage ends with one sentence on stderr, exit code 2, no traceback and nothing written."""

from pathlib import Path

import pytest
from command_line import call

WRONG = {
    "solver": (["sample", "--solver", "dpmp_2m"], "dpmpp_2m"),
    "solver of several": (["compare", "--solvers", "ddim,unipcc"], "unipc"),
    "grid": (["sample", "--grid", "karas"], "karras"),
    "nfe": (["sample", "--nfe", "0"], "at least 1"),
    "nfe of several": (["compare", "--nfe", "4,0"], "at least 1"),
    "nfe as text": (["compare", "--nfe", "four"], "whole numbers"),
    "number": (["sample", "-n", "0"], "range"),
    "option name": (["sample", "--option", "ordr=2"], "ordr"),
    "option value": (["sample", "--solver", "unipc", "--option", "order=9"], "order"),
    "option form": (["sample", "--option", "order"], "key=value"),
    "class": (["sample", "--classes", "12", "-n", "1"], "0..9"),
    "prompt": (["sample", "--prompt", "a cat", "-n", "1"], "prompt"),
    "device": (["sample", "--device", "warp"], "warp"),
    "dtype": (["sample", "--dtype", "float8"], "float8"),
    "picture": (["sample", "-n", "1", "--out", "grid.html"], ".png"),
    "picture without a suffix": (["sample", "-n", "1", "--out", "grid"], "DIR/"),
    "folder": (["sample", "./no/such/folder"], "does not exist"),
    "command": (["sampel"], "sampel"),
    "shown solver": (["solvers", "dimm"], "ddim"),
    "shown grid": (["grids", "linspac"], "linspace"),
    "shown guidance": (["guidance", "dpz"], "dps"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_is_one_sentence(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, told = WRONG[case]
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    *_, sentence = result.stderr.strip().splitlines()
    assert sentence.startswith("Error: ") and told in sentence
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_folder_without_a_pipeline(tmp_path: Path) -> None:
    result = call("sample", tmp_path)
    assert result.exit_code == 2 and "model_index.json" in result.stderr


def test_unreachable_hub_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = call("sample", "nobody/no-such-pipeline")
    assert result.exit_code == 1 and "Traceback" not in result.stderr
    (sentence,) = result.stderr.strip().splitlines()
    assert "nobody/no-such-pipeline" in sentence and "folder" in sentence


def test_debug_shows_where_and_keeps_the_code() -> None:
    for arguments in (["--debug", "solvers", "dimm"], ["solvers", "dimm", "--debug"]):
        result = call(*arguments)
        assert result.exit_code == 2 and "Traceback" in result.stderr
