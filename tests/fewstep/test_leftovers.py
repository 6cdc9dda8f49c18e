"""What a killed run leaves beside its target is removed once it is certainly nobody's; what is not is never touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fewstep.output.files import whole, write_text
from fewstep.output.leftovers import STALE, swept
from fewstep.output.places import prove_file

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there an open file can be neither renamed nor removed")
WRITE = """
import sys
from fewstep.output.files import whole
with whole(sys.argv[1]) as part:
    part.write_text("half")
    print("begun", flush=True)
    sys.stdin.read()
"""


def at_work(target: Path) -> subprocess.Popen[str]:
    """Another process in the middle of writing."""
    other = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout and other.stdout.readline() == "begun\n"
    return other


def aged(path: Path) -> None:
    os.utime(path, (time.time() - 2 * STALE,) * 2)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_a_killed_run_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    dead, alive = at_work(tmp_path / "dead.json"), at_work(tmp_path / "alive.json")
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        left = names(tmp_path)
        assert len(left) == 2 and all(".fewstep.json" in name for name in left)
        write_text(tmp_path / "a.json", "1")
        assert names(tmp_path) == left | {"a.json"}, "an hour has not passed"
        swept.cache_clear()
        for path in tmp_path.glob(".*"):
            aged(path)
        write_text(tmp_path / "b.json", "2")
        assert names(tmp_path) == {name for name in left if "alive" in name} | {"a.json", "b.json"}
        alive.communicate("")
        assert names(tmp_path) == {"alive.json", "a.json", "b.json"}
        assert (tmp_path / "alive.json").read_text(encoding="utf-8") == "half"
    finally:
        for process in (dead, alive):
            process.kill()
            process.communicate()


def test_nothing_of_others_is_touched(tmp_path: Path) -> None:
    for name in (".out-abcdefgh.json", ".out-abcdefgh.part.json", "out-abcdefgh.fewstep.json", ".out.fewstep.json"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
    (tmp_path / ".folder-abcdefgh.fewstep").mkdir()
    (tmp_path / ".link-abcdefgh.fewstep.json").symlink_to(tmp_path / ".out-abcdefgh.json")
    before = names(tmp_path)
    for path in tmp_path.iterdir():
        aged(path)
    with whole(tmp_path / "new.json") as part:
        assert part.suffix == ".json" and part.name.startswith(".new-")
    assert names(tmp_path) == before | {"new.json"}


def test_a_folder_is_looked_at_once(tmp_path: Path) -> None:
    """Fifty thousand images are not listed fifty thousand times."""
    swept.cache_clear()
    for k in range(5):
        write_text(tmp_path / f"{k}.txt", "")
    assert swept.cache_info().misses == 1


def test_names_of_the_longest(tmp_path: Path) -> None:
    name = f"{'n' * 250}.json"
    prove_file(tmp_path / name, "--out")
    write_text(tmp_path / name, "1")
    assert names(tmp_path) == {name}
    with pytest.raises(ValueError, match="--out .* cannot be written .File name too long"):
        prove_file(tmp_path / f"n{name}", "--out")
