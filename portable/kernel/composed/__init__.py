"""Rows composed of torch operations: faster or leaner than the reference, on every device."""
