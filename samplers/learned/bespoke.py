"""bespoke: to be written by its owner."""
