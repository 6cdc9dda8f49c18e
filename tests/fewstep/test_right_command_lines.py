"""Command lines that are right: whatever is drawn of names, numbers and options that go together ends with exit code 0."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from learnt import VP, learned_table
from PIL import Image

import fewstep
from fewstep.cli import main
from fewstep.eval import METRICS
from fewstep.samplers import GRIDS, SOLVERS, Artefact, Learned, build
from fewstep.samplers.guidance.guidance_entry import GUIDANCE

FREE: Any = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
DIGITS = ["--extractor", "digits", "--device", "cpu"]
Line = tuple[list[str], str | None]  # and the file that is then there


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of what lines name: images in every form, statistics, tables, a learned artefact, a saved pipeline."""
    made, random = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    pixels = random.integers(0, 255, (24, 9, 9, 3), np.uint8)
    np.savez(made / "x.npz", pixels)
    np.save(made / "x.npy", pixels)
    (made / "pictures").mkdir()
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(made / "pictures" / f"{k}.png")
    fewstep.eval.stats(made / "x.npz", made / "s.npz", extractor="digits", rows=True, progress=False)
    build("unipc", VP, 4).save(made / "table.json")
    Artefact((Learned(learned_table(VP, 4)),), {"prediction": "epsilon"}).save(made / "learned.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        yield made


def flags(*choices: list[str]) -> st.SearchStrategy[list[str]]:
    """Any of these options."""
    return st.lists(st.sampled_from(choices), unique_by=lambda words: words[0], max_size=3).map(
        lambda some: sum(some, [])
    )


def plays(solver: str, nfe: int, grid: str | None) -> bool:
    """Whether a solver has a table of so many evaluations on the grid of the embedded model."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            build(solver, SCHEDULE[0], nfe, grid)
    except ValueError:
        return False
    return True


SCHEDULE: list[Any] = []  # of the embedded model, once
TABLES = sorted(name for name in SOLVERS if SOLVERS[name].kind == "tableau")
IMAGES = st.sampled_from(["x.npz", "x.npy", "pictures"])
LOOK = flags(["--json"], ["--debug"])


@st.composite
def sampled(draw: Any) -> Line:
    if not SCHEDULE:
        pipe = fewstep.load_demo_pipeline()
        SCHEDULE.append(fewstep.NoiseSchedule.from_config(pipe.scheduler.config))
    solver, nfe = draw(st.sampled_from(TABLES)), draw(st.integers(1, 5))
    grid = draw(st.none() | st.sampled_from(sorted(GRIDS)))
    if not plays(solver, nfe, grid):
        solver, grid = "ddim", None
    out = draw(st.sampled_from(["a.png", "b.jpg", "c.webp", "deep/er/d.png", "e/"]))
    more = draw(
        flags(["--seed", "3"], ["--classes", "1,7"], ["--batch-size", "1"], ["--debug"], ["--noise", "brownian"])
    )
    line = [
        "sample",
        "--solver",
        solver,
        "--nfe",
        str(nfe),
        *(["--grid", grid] if grid else []),
        "-n",
        "2",
        "--out",
        out,
    ]
    return [*line, *more], out


@st.composite
def measured(draw: Any) -> Line:
    real, generated = draw(IMAGES | st.just("s.npz")), draw(IMAGES)
    if draw(st.booleans()):
        return [
            "fid",
            real,
            generated,
            *DIGITS,
            *draw(flags(["--json", "r.json"], ["--number", "5"], ["--html", "f.html"])),
        ], None
    some = draw(st.lists(st.sampled_from(["fid", "kid_full", "is"]), min_size=1, unique=True))
    wish = draw(flags(["--json", "r.json"], ["--html", "r.html"], ["--batch-size", "3"], ["--skip-bad"]))
    return [
        "eval",
        real,
        generated,
        "--metrics",
        ",".join(some),
        *DIGITS,
        *wish,
    ], "r.json" if "r.json" in wish else None


def answers() -> st.SearchStrategy[Line]:
    """What only prints."""
    told = st.one_of(
        st.sampled_from(sorted(SOLVERS)).map(lambda name: ["solvers", name]),
        st.sampled_from(sorted(GUIDANCE)).map(lambda name: ["guidance", name]),
        st.tuples(st.sampled_from(sorted(GRIDS)), st.integers(5, 12)).map(
            lambda g: ["grids", g[0], "--nfe", str(g[1])]
        ),
        st.sampled_from(
            [["solvers"], ["grids"], ["guidance"], ["metrics"], ["--version"], ["--help"], ["learn", "--methods"]]
        ),
        st.sampled_from(["sample", "compare", "learn", "eval", "fid", "stats", "show"]).map(
            lambda name: [name, "--help"]
        ),
    )
    return st.tuples(told, st.booleans()).map(
        lambda p: ([*p[0], *(["--json"] if p[1] and p[0][0] in ("solvers", "guidance", "grids") else [])], None)
    )


@st.composite
def shown(draw: Any) -> Line:
    file, nfe = draw(st.sampled_from([("demo", "5"), ("table.json", "4"), ("learned.json", "4")]))
    wish = draw(flags(["--nfe", nfe]))
    out = draw(st.none() | st.sampled_from(["p.png", "p.svg", "p.pdf", "p.html"]))
    return ["show", file, *wish, *(["--out", out] if out else [])], out


@st.composite
def counted(draw: Any) -> Line:
    wish = draw(flags(["--features"], ["--name", "größer"], ["--number", "5"], ["--batch-size", "1"], ["--limit", "5"]))
    return ["stats", draw(IMAGES), "--out", "new.npz", *DIGITS, *wish], "new.npz"


LINES = st.one_of(st.deferred(answers), sampled(), measured(), shown(), counted())
# Of those that run the reference or learn, one each.
LONG = (
    ["compare", "--solvers", "ddim,unipc", "--nfe", "3", "-n", "2", "--out", "figures"],
    ["learn", "--nfe", "3", "--method", "iia", "--budget", "1500", "--no-cache", "--out", "new.json"],
    ["learn", "--nfe", "3", "--estimate", "--json"],
    ["sample", "--learned", "demo", "--nfe", "5", "-n", "1", "--out", "l.png"],
    [
        "eval",
        "--model",
        "demo",
        "--solver",
        "ddim,unipc",
        "--nfe",
        "2",
        "--metrics",
        "rmse",
        "--pairs",
        "2",
        "-n",
        "2",
        "--out",
        "c",
    ],
)


def succeeds(line: list[str], out: str | None) -> None:
    result = CliRunner().invoke(main, line, prog_name="fewstep")
    assert result.exit_code == 0 and result.exception is None, (line, result.output[-600:], result.exception)
    assert "Traceback" not in result.output and "nan" not in result.output.lower().split(), line
    if "--json" in line and line[0] in ("solvers", "guidance", "grids"):
        json.loads(result.output)
    if out is not None:
        assert Path(out).exists(), line
        for left in Path(out).parent.glob(".*"):
            raise AssertionError(f"{line} left {left}")
        if Path(out).is_file():
            Path(out).unlink()


@given(line=LINES)
@settings(max_examples=25, **FREE)
def test_any_right_line_succeeds(place: Path, line: Line) -> None:
    succeeds(*line)


@pytest.mark.slow
def test_five_hundred_right_lines_succeed(place: Path) -> None:
    seen, files = [], []

    @given(LINES)
    @settings(max_examples=500, **FREE)
    def each(line: Line) -> None:
        succeeds(*line)
        seen.append(line[0][0])
        files.append(len(os.listdir("/proc/self/fd")))

    each()
    assert len(seen) >= 500 and {"sample", "show", "stats", "fid", "eval", "solvers", "grids"} <= set(seen)
    assert files[-1] <= files[50] + 5, "open files grow"


@pytest.mark.slow
@pytest.mark.parametrize("line", LONG, ids=lambda line: " ".join(line[:2]))
def test_a_long_right_line_succeeds(place: Path, line: list[str]) -> None:
    succeeds([*line, "--device", "cpu"], None)


def test_every_metric_is_listed(place: Path) -> None:
    result = CliRunner().invoke(main, ["metrics"])
    assert result.exit_code == 0 and all(name in result.output for name in METRICS)
