"""The contract of engines, on every usable backend."""

from portable.testing.engine import *  # noqa: F403
