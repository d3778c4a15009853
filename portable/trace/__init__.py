"""Trace: one step of a job, written down on one machine and compared on another, down to the kernel."""
