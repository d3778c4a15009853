"""What a model is: its shape, its formulas, its weights, its tokenizer."""
