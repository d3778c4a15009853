"""Conformance: every row answers the same questions as near to float64 as the reference does."""
