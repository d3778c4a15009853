"""What every test runs under: one thread, no network, no accelerator extension that loads itself.

Set here, at import, because torch and transformers read these when they are imported.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"

from hypothesis import settings

pytest_plugins = ["portable.testing.plugin"]

# In continuous integration the same examples every time; elsewhere new ones, which find new faults.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
