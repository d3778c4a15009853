"""What every backend of Portable must do, done on the Acme One: ``pytest --backend acme``."""

from portable.testing.device import *  # noqa: F403
