"""Models of ``transformers``, trained as they are: their code computes, our kernels attend and end it."""
