"""Portable: the whole LLM chain, written once for every accelerator."""

__all__ = ["__version__"]
__version__ = "0.1.0"
