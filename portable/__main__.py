"""``python -m portable`` is the same program as ``portable``."""

import sys

from portable.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
