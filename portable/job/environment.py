"""What a run was made with: revision, versions, machine. Written beside every result."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from portable.core.storage import write_json
from portable.device.select import backend_names, load_backend

_PACKAGES = (
    "portable-llm",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "hydra-core",
    "safetensors",
    "peft",
)


def git_revision() -> str | None:
    """Return the commit of the checkout we run from, with ``+`` if files differ from it.

    Outside a checkout there is no commit, and the answer is None.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    revision = _git(root, "rev-parse", "--short=12", "HEAD")
    if revision is None:
        return None
    return revision + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_device(backend: str) -> dict[str, Any]:  # Any: JSON values
    """Return name, vendor, arch, cores and bytes of the machine's device.

    Of a backend that is not installed only the name is returned.
    """
    if backend not in backend_names():
        return {"name": backend}
    info = load_backend(backend).device().info()
    return {
        "name": info.name,
        "vendor": info.vendor,
        "arch": info.arch,
        "num_cores": info.num_cores,
        "total_bytes": info.total_bytes,
    }


def record_environment(path: Path, backend: str, command: str) -> dict[str, Any]:  # Any: JSON values
    """Write ``environment.json`` into ``path`` and return its content."""
    content = {
        "git_revision": git_revision(),
        "versions": package_versions(),
        "platform": platform.platform(),
        "device": describe_device(backend),
        "command": command,
    }
    write_json(path / "environment.json", content)
    return content


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
