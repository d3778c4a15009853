"""The report of a recipe run, as a page and as JSON."""
