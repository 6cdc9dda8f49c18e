"""ays: to be written by its owner."""
