"""The parts of gpu.py: what is measured on a GPU, one file for each thing."""
