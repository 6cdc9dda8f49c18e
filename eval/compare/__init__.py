"""Solvers against each other: metrics over evaluations, errors and sets, and the command `fewstep compare`."""
