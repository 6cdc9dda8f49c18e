"""The command `fewstep`, called inside the process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from fewstep.cli import main


def call(*args: object) -> Result:
    """What the command did; an exit code is not looked at."""
    return CliRunner().invoke(main, [str(a) for a in args], prog_name="fewstep")


def run(*args: object, code: int = 0) -> Result:
    """The same, and it ended with this code."""
    result = call(*args)
    assert result.exit_code == code, result.output + str(result.exception)
    return result
