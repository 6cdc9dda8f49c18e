"""Where things lie in a checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
HELPERS = TESTS / "helpers"
EXAMPLES = ROOT / "examples"
BEFORE = TESTS / "fixtures" / "before"  # written by release 0.1.0
