"""Who starts the ranks of a run, and what became of them."""
