"""Finding the same text twice."""
