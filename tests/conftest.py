"""Shared by all tests: `from problems import ...` works from any of them, and torch keeps to one thread."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
