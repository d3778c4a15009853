"""A folder that looks like a CANN toolkit: the emulated libraries under the names that torch_npu loads."""

from __future__ import annotations

import hashlib
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from backends.redispatch.build import CORE_SOURCES, build_library, cache_folder
from portable.core.errors import BackendUnavailable

HERE = Path(__file__).parent
CANN_VERSION = (
    "9.1.0"  # of torch_npu 2.12.0, the nearest release whose row in the compatibility table was seen
)

# One library serves under all names: torch_npu looks a function up where a real system has it.
_RUNTIME_NAMES = (
    "libascendcl.so",
    "libacl_op_compiler.so",
    "libge_runner.so",
    "libgraph.so",
    "libacl_tdt_channel.so",
    "libopapi.so",
)
_HCCL_NAMES = ("libhccl.so", "libhcomm.so")  # the second has the start and end of groups
_FOLDERS = ("compiler", "opp", "runtime")  # torch_npu checks that they exist


def package_folder(package: str) -> Path:
    """Return where ``package`` lies, without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise BackendUnavailable(
            f"the emulator needs {package}, which is not installed; see ci/ascend-emulation.sh"
        )
    return Path(spec.origin).parent


def build_runtime() -> Path:
    """Build the emulated CANN runtime against the headers that torch_npu ships."""
    headers = package_folder("torch_npu") / "include/third_party/acl/inc"
    sources = sorted((HERE / "runtime").glob("*.cpp"))
    return build_library("emulated_cann", sources, [f"-isystem{headers}"], link_torch=False)


def build_collectives() -> Path:
    """Build the emulated HCCL. Torch is there for its half-precision types only, which are headers."""
    ours = package_folder("torch_npu") / "include"
    headers = [ours, ours / "third_party/acl/inc", package_folder("torch") / "include"]
    flags = ["-pthread", *(f"-isystem{folder}" for folder in headers)]
    return build_library("emulated_hccl", sorted((HERE / "hccl").glob("*.cpp")), flags, link_torch=False)


def build_kernels() -> Path:
    """Build the library that replaces torch_npu's kernels."""
    sources = sorted((HERE / "kernels").glob("*.cpp")) + list(CORE_SOURCES)
    return build_library("ascend_kernels", sources)


def lay_out() -> Path:
    """Make the toolkit's folder, or find it; returns it. ASCEND_HOME_PATH is to name it."""
    libraries = dict.fromkeys(_RUNTIME_NAMES, build_runtime()) | dict.fromkeys(
        _HCCL_NAMES, build_collectives()
    )
    key = hashlib.sha256(repr((sorted(libraries.items()), CANN_VERSION)).encode()).hexdigest()[:12]
    home = cache_folder() / f"emulated-cann-{key}"
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=home.parent))
    for name in _FOLDERS:
        (draft / name).mkdir()
    (draft / "lib64").mkdir()
    for name, target in libraries.items():
        (draft / "lib64" / name).symlink_to(target)
    (draft / "ascend_toolkit_install.info").write_text(
        f"package_name=emulated-cann\nversion={CANN_VERSION}\n"
    )
    draft.chmod(0o755)
    try:
        os.rename(draft, home)  # noqa: PTH104 - atomic, and fails if another process was first
    except OSError:
        if not home.is_dir():
            raise
    return home
