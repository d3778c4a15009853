"""What every backend of Portable must do, done on the Acme One: ``pytest --backend acme``."""

from portable.testing.collective import *  # noqa: F403
from portable.testing.device import *  # noqa: F403
from portable.testing.engine import *  # noqa: F403
from portable.testing.kernel import *  # noqa: F403
from portable.testing.strategy import *  # noqa: F403
