"""Supervised fine-tuning: only the template and the mask are special."""
