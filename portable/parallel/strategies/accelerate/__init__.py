"""Hugging Face accelerate under our trainer; nothing here imports it before a strategy is made."""
