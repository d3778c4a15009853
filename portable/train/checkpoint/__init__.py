"""Resumable state of a training run: written in the background, whole or absent, readable in any layout."""
