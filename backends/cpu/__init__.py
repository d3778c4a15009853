"""Plain CPUs."""
