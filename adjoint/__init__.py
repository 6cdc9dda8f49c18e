"""Exact gradients through sampling, inversion and likelihood."""
