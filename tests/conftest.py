"""What every test runs under: one thread, no network, no accelerator extension that loads itself.

Set here, at import, because torch and transformers read these when they are imported.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from hypothesis import settings

from tests.example import install_example

pytest_plugins = ["portable.testing.plugin"]

# In continuous integration the same examples every time; elsewhere new ones, which find new faults.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_portable_sites(config: pytest.Config) -> Sequence[Path]:
    """Test the contract on the example chip too, whose package is installed in a folder of this session."""
    folder = tempfile.TemporaryDirectory(prefix="acme-")
    config.add_cleanup(folder.cleanup)
    return [install_example(Path(folder.name))]
