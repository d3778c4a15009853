"""Several corpora as one: which sample comes from which, and the source that reads them."""
