"""The group of processes that a launcher started: how it is joined, and how its processes wait for each other."""
