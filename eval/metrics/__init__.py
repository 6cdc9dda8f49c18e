"""The metrics: each a function of the features of two sets, registered in `METRICS` (registry.py)."""
