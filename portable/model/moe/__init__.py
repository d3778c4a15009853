"""Mixtures of experts: who is chosen, how the load is spread, what the chosen compute."""
