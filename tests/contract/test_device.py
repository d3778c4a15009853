"""The device contract, on every usable backend; the tests of a third party's package look like this."""

from portable.testing.device import *  # noqa: F403
