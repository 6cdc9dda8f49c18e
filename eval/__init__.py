"""FID and its kin: exact, streaming, with intervals, from folders, files, tensors or straight from a pipeline."""
