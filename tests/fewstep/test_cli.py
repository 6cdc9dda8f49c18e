"""The `fewstep` command, on a terminal and in a pipe."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import call

from fewstep.samplers import GRIDS, SOLVERS
from fewstep.samplers.guidance import GUIDANCE


def in_a_process(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fewstep", *args], capture_output=True, text=True)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fewstep.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'numpy', 'scipy', 'matplotlib', 'PIL', 'tqdm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    result = in_a_process("--help")
    assert result.returncode == 0 and "compare" in result.stdout


def test_version() -> None:
    from fewstep import __version__

    assert call("--version").output.strip() == f"fewstep {__version__}"


def test_every_command_has_help_and_debug() -> None:
    for name in ("sample", "compare", "solvers", "grids", "guidance"):
        result = call(name, "--help")
        assert result.exit_code == 0 and "--debug" in result.output


@pytest.mark.parametrize(("command", "registry"), [("solvers", SOLVERS), ("grids", GRIDS), ("guidance", GUIDANCE)])
def test_lists_show_the_whole_registry(command: str, registry: dict[str, object]) -> None:
    head, *lines = call(command).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(registry)
    for title in ("reference", "options"):  # aligned: every cell starts where its title does
        assert all(line[head.index(title)] != " " and line[head.index(title) - 1] == " " for line in lines)
    assert [entry["name"] for entry in json.loads(call(command, "--json").stdout)] == list(registry)


def test_every_solver_and_grid_can_be_shown() -> None:
    for name, entry in SOLVERS.items():
        result = call("solvers", name)
        assert result.exit_code == 0, result.stderr
        assert entry.reference in result.stdout and all(f"option {o} " in result.stdout for o in entry.options)
    for name in GRIDS:
        result = call("grids", name, "-n", 5)
        assert result.exit_code == 0, result.stderr
        times = [float(line.split()[0]) for line in result.stdout.splitlines()[-6:]]
        assert times == sorted(times, reverse=True) and len(set(times)) == 6


def test_every_guidance_can_be_shown() -> None:
    for name, entry in GUIDANCE.items():
        result = call("guidance", name)
        assert result.exit_code == 0, result.stderr
        assert entry.summary in result.stdout and all(f"option {o} " in result.stdout for o in entry.options)


def test_solver_shows_its_own_table() -> None:
    from fewstep.samplers import NoiseSchedule, build

    table = str(build("dpmpp_2m", NoiseSchedule.vp_linear(), 6))
    assert table in call("solvers", "DPM++ 2M", "--nfe", 6).stdout


def test_a_closed_pipe_ends_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fewstep", "solvers", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait(60)


def test_sampling_without_the_first_call(tmp_path: Path) -> None:
    result = call("sample", "-n", "1", "--nfe", "3", "--option", "afs=true", "--out", str(tmp_path / "one.png"))
    assert result.exit_code == 0 and "3 evaluations" in result.output
    result = call("sample", "--solver", "rk45", "--option", "afs=true", "--out", str(tmp_path / "two.png"))
    assert result.exit_code != 0 and "no option 'afs'" in result.output
