"""Inference: requests in, completions out."""
