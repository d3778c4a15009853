"""Launchers of other projects."""
