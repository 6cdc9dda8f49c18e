"""dmn: to be written by its owner."""
