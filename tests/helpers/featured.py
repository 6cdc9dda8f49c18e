"""Features of made-up sets, for tests of metrics."""

import numpy as np

from fewstep.eval.gaussian.features import Features


def of(rows, part="main"):
    """Features with these rows as one part."""
    rows = np.asarray(rows, dtype=np.float32)
    return Features(len(rows), rows={part: rows})


def gaussian(n, d, seed, mean=0.0, scale=1.0):
    """float32 (n, d) of independent normal numbers."""
    return (mean + scale * np.random.default_rng(seed).standard_normal((n, d))).astype(np.float32)


def mapped(rows, path):
    """The same rows in a memory-mapped file, read only."""
    np.asarray(rows, dtype=np.float32).tofile(path)
    return np.memmap(path, dtype=np.float32, mode="r", shape=rows.shape)
