"""How far a network is from being a score."""
