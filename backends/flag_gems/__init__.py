"""Rows made of FlagGems' functions (package ``flag_gems``), where they keep what a row promises."""
