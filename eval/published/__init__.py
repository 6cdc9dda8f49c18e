"""What others published: statistics by name, and how files are fetched where that is allowed."""
