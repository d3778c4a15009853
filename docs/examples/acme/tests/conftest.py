"""The contract's fixtures and its ``--backend``."""

pytest_plugins = ["portable.testing.plugin"]
