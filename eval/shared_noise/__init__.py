"""Errors of solvers to a reference from the same noise, image by image: `paired`, its trials, cells and race."""
