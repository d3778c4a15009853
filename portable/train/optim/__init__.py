"""Optimisers: which parameters each treats how, and one object for the trainer to step."""
