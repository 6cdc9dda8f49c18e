"""`Meter`: metrics of images that come a few at a time, in a training loop, in any number of processes."""
