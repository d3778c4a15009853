"""Inference engines of other projects, behind our Engine Protocol."""
