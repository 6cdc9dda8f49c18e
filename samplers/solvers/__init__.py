"""Solver families: one file a family, each a function from a path to rows, registered by name."""
