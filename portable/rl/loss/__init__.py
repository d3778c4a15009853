"""One policy loss a file."""
