"""Scores of single images, with their prompts or without: CLIP score, and any function or transformers model."""
