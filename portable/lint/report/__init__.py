"""Findings as text, JSON, SARIF, and tables of rules and counts."""
