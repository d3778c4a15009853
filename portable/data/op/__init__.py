"""One operation on documents a module."""
