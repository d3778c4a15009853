"""The native part of the simulator: compiled on first use. Torch is not imported here."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from backends.redispatch.build import CORE_SOURCES, FOLDER, build_library, library_path

EXTENSION = "portable_sim"
_NATIVE = Path(__file__).parent / "native"


def build() -> Path:
    """Return the native part; compile it if no process has done so before. Raises: BackendUnavailable."""
    return build_library(EXTENSION, _sources(), _flags(), joined=True)


def is_built() -> bool:
    """Return whether the first use has been paid for. Raises: BackendUnavailable without a compiler."""
    return library_path(EXTENSION, _sources(), _flags()).exists()


def _sources() -> tuple[Path, ...]:
    return (*CORE_SOURCES, *sorted(_NATIVE.glob("*/*.cpp")))


def _flags() -> tuple[str, ...]:
    include = sysconfig.get_paths()["include"]
    return ("-isystem", include, f"-I{FOLDER}", f"-DTORCH_EXTENSION_NAME={EXTENSION}", "-ltorch_python")
