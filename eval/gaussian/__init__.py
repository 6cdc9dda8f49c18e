"""Features and their Gaussians: streaming statistics, distances between them, and files of both."""
