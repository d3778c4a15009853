"""Kernels: a meaning (``reference/``) and rows that implement it (entry-point group ``portable.kernels``)."""
