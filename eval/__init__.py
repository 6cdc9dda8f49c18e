"""FID and its kin."""
