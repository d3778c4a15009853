"""Scores with counts and intervals."""
