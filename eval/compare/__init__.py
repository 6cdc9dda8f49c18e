"""Solvers against each other on shared noise: the table of `fewstep compare`, paired errors, metrics over evaluations."""
