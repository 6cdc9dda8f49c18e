"""Command lines drawn from options, values right and wrong, and garbage: an answer or one sentence, never a traceback."""

import os
import tempfile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewstep.cli import COMMANDS, Failure, main
from fewstep.samplers import GRIDS, SOLVERS

WORDS = (
    "demo",
    "ddim",
    "dpmpp_2m",
    "unipc",
    "karras",
    "rk45",
    "latent",
    "nothing",
    "",
    "-",
    "--",
    "ä",
    "1",
    "a=1",
    "order=2",
)
NUMBERS = ("0", "1", "2", "-1", "1.5", "nan", "inf", "1e20", "1" + 30 * "0", "1,2", "3,", ",", "0x10", "x", "")
PATHS = (
    "out.png",
    "out.json",
    "out.html",
    "no/such/out.png",
    "out",
    "there",
    "there/",
    "there.json",
    "/dev/null/x.png",
    "\x7f",
)
FREE = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
# What is slow where it is right, and whether it ends is what its own tests are about: here only with something wrong beside it.
LONG = {"sample": ["--nfe", "0"], "compare": ["--nfe", "0"], "learn": ["--nfe", "0"], "tune": ["--nfe", "0"],
        "eval": ["--metrics", "?", "--nfe", "0"], "fid": ["--batch-size", "0"], "stats": ["--batch-size", "0"]}  # fmt: skip


def options(command):
    """Strategies of the options of a command: its own names, with values that may be right or wrong."""
    found = [st.sampled_from([["--nothing"], ["-x"], ["--help"], ["--debug", "--nothing"]])]
    for parameter in command.params:
        if not isinstance(parameter, click.Option) or parameter.is_flag:
            continue
        values = st.sampled_from(WORDS) | st.sampled_from(NUMBERS) | st.sampled_from(PATHS) | st.text(max_size=6)
        found.append(st.builds(lambda name, value: [name, value], st.sampled_from(parameter.opts), values))
    return st.lists(st.one_of(found), max_size=4).map(lambda pairs: [word for pair in pairs for word in pair])


def lines():
    names = sorted(COMMANDS)
    known = st.sampled_from(names).flatmap(
        lambda name: st.tuples(
            st.just([name]),
            st.lists(st.sampled_from((*WORDS, *PATHS)), max_size=2),
            options(main.get_command(None, name)),
        ).map(lambda parts: [*parts[0], *parts[1], *parts[2], *LONG.get(parts[0][0], [])])
    )
    right = st.one_of(
        st.sampled_from(sorted(SOLVERS)).map(lambda name: ["solvers", name]),
        st.tuples(st.sampled_from(sorted(GRIDS)), st.integers(1, 30)).map(
            lambda g: ["grids", g[0], "--nfe", str(g[1])]
        ),
        st.sampled_from([["solvers"], ["grids", "--json"], ["guidance"], ["metrics"], ["show", "demo"], ["--version"]]),
    )
    words = st.lists(st.sampled_from((*WORDS, *names)), max_size=4).filter(lambda line: not set(line) & LONG.keys())
    return st.one_of(known, known, known, right, words)


@pytest.fixture
def causes(monkeypatch):
    """What failures came from, since the sentence does not tell; and nobody waits for a hub."""
    found, init = [], Failure.__init__

    def noted(self, error):
        found.append(error)
        init(self, error)

    monkeypatch.setattr(Failure, "__init__", noted)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return found


def ends_well(line, causes):
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        Path("there").mkdir()
        Path("there.json").write_text("{}", encoding="utf-8")
        before = {path.name for path in Path().iterdir()}
        result = CliRunner().invoke(main, line, prog_name="fewstep")
        error = result.exception
        assert error is None or isinstance(error, SystemExit), f"{line}: {type(error).__name__}: {error}"
        assert result.exit_code in (0, 1, 2), line
        assert "Traceback" not in result.output, line
        for error in causes:
            assert isinstance(error, (ValueError, TypeError, OSError)), f"{line}: {error!r}"
        causes.clear()
        if result.exit_code:
            *_, sentence = result.output.strip().splitlines()
            assert ("Error: " in result.output or not line) and len(sentence) < 2000, (line, result.output)
            assert {path.name for path in Path().iterdir()} == before, f"{line} failed, and wrote something"
    return result.exit_code


@given(line=lines())
@settings(max_examples=60, **FREE)
def test_any_command_line_ends_in_an_answer_or_one_sentence(causes, line):
    ends_well(line, causes)


@pytest.mark.slow
def test_a_thousand_command_lines(causes):
    codes, files = [], []

    @given(lines())
    @settings(max_examples=1000, **FREE)
    def each(line):
        codes.append(ends_well(line, causes))
        files.append(len(os.listdir("/proc/self/fd")))

    each()
    assert len(codes) >= 1000 and min(codes.count(0), codes.count(2)) > 50
    assert files[-1] <= files[100] + 5, "open files grow"
