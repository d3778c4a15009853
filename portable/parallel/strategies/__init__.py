"""One training strategy a file."""
