"""What collecting the tests must not import: packages that take seconds."""

import pytest

SLOW = frozenset({"diffusers", "transformers", "torchvision", "torch._dynamo"})
IMPORTED = pytest.StashKey[dict[str, str]]()  # package -> module of tests that was the first to import it
