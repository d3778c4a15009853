"""Kernels in Triton: one source for NVIDIA and AMD GPUs, with a table of tile sizes for each."""
