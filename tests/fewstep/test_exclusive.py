"""A folder is one run's at a time, and a killed run holds nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fewstep.output.exclusive import exclusive

HOLD = """
import sys
from fewstep.output.exclusive import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has it."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout and other.stdin and other.stdout.readline() == "held\n"
    try:
        yield other
    finally:
        other.stdin.close()
        other.wait()
        other.stdout.close()


def test_one_at_a_time_in_a_process_too(tmp_path: Path) -> None:
    with exclusive(tmp_path / "new"):
        with pytest.raises(ValueError, match=rf"resume folder .*new is in use .*process {os.getpid()} on"):
            with exclusive(tmp_path / "new", "the resume folder"):
                pass
        with exclusive(tmp_path / "other"):
            pass
    with exclusive(tmp_path / "new"):
        pass
    assert not list((tmp_path / "new").iterdir()), "nothing is left"


def test_another_process_is_refused_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    with held(tmp_path) as other:
        with pytest.raises(ValueError, match=f"process {other.pid} on"), exclusive(tmp_path):
            pass
    with exclusive(tmp_path):
        pass
    with held(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert (tmp_path / ".lock").exists(), "a stale file, and no lock"
        with exclusive(tmp_path):
            pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that are forked")
def test_a_child_does_not_hold_the_lock_of_its_dead_parent(tmp_path: Path) -> None:
    """Processes that decode images outlive a killed run for some seconds."""
    code = (
        "import os, sys, time\n"
        "from fewstep.output.exclusive import exclusive\n"
        "with exclusive(sys.argv[1]):\n"
        "    child = os.fork()\n"
        "    if child == 0: os.write(1, b'let go\\n'); time.sleep(20); os._exit(0)\n"
        "    os.write(1, b'%d\\n' % child)\n"
        "    time.sleep(20)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    (child,) = (int(line) for line in (parent.stdout.readline(), parent.stdout.readline()) if line != "let go\n")
    with pytest.raises(ValueError, match="in use"), exclusive(tmp_path):
        pass
    parent.kill()
    parent.wait()
    try:
        with exclusive(tmp_path):
            os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
