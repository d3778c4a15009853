"""The meaning of every kernel: formula, fallback and oracle, one op a file."""
