"""Shared by all tests: `from problems import ...` works from any of them, torch keeps to one thread, examples repeat."""

import sys
from pathlib import Path

import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
# The same examples in every run, so that a failure is that of a change; `--hypothesis-profile=default` draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
