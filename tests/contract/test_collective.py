"""The contract of groups, on every usable backend."""

from portable.testing.collective import *  # noqa: F403
