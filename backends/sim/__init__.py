"""A simulated accelerator: a device type of its own whose operators run on this machine's processor."""
