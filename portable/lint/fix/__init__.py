"""Mend findings: byte-exact edits that leave formatting and comments as they are."""
