"""Clips of videos as samples: how they are read, and networks that turn them into features."""
