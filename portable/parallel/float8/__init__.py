"""Matmuls of linear layers in 8-bit floating point."""
