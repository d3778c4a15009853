"""From sources to documents, from documents to tokens, from tokens to batches."""
