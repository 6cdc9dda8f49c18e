"""dc: to be written by its owner."""
