"""Tensor parallelism in two and three dimensions: tokens and matrices are both cut into tiles."""
