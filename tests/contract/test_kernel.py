"""The contract of kernel rows, on every usable backend."""

from portable.testing.kernel import *  # noqa: F403
