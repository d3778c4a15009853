"""Rows in plain torch that GPUs share: what torch itself fuses on them."""
