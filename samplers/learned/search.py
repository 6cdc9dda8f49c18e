"""search: to be written by its owner."""
