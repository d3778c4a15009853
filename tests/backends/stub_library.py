"""Compiles a stand-in for a vendor's library, so that what ctypes calls is C."""

import shutil
import subprocess
from pathlib import Path


def compile_stub(source: Path, library: Path) -> Path:
    """Compile ``source`` into ``library``."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("g++")
    assert compiler, "these tests need a C compiler"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library
