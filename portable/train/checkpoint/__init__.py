"""Saving and restoring a run, exactly."""
