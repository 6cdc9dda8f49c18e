"""Samplers whose steps depend on the state: one file a kind, over the same schedules, denoisers and noise."""
