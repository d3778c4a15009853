"""The contract of strategies, on every usable backend."""

from portable.testing.strategy import *  # noqa: F403
