"""From an answer and its reference to a number between 0 and 1."""
