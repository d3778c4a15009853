"""Real processes that form a group, for tests; the runner itself is part of ``portable.testing``."""

from portable.testing.process import free_port, run_processes, start

__all__ = ["free_port", "run_processes", "start"]
