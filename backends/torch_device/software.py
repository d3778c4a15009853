"""What is installed, found without importing it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """What an installed torch was built for. ``cuda`` and ``hip`` are versions, or "" where it was not."""

    version: str
    cuda: str = ""
    hip: str = ""

    @property
    def kind(self) -> str:
        """How people name the build."""
        if self.cuda:
            return f"CUDA {self.cuda}"
        return f"ROCm {self.hip}" if self.hip else "CPU"


def read_torch_build(version_file: Path | None = None) -> TorchBuild | None:
    """Return what torch's ``version.py`` says, read as text; None where there is no torch."""
    file = _torch_version_file() if version_file is None else version_file
    if file is None or not file.is_file():
        return None
    told: dict[str, str] = {}
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        target = statement.target if isinstance(statement, ast.AnnAssign) else target
        value = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            told[target.id] = value.value
    return TorchBuild(told.get("__version__", ""), told.get("cuda", ""), told.get("hip", ""))


@cache
def _torch_version_file() -> Path | None:
    spec = find_spec("torch")
    return Path(spec.origin).parent / "version.py" if spec is not None and spec.origin else None


def has_package(name: str) -> bool:
    """Return whether the top-level package ``name`` can be found; it is not imported."""
    return find_spec(name) is not None


def package_version(name: str) -> str | None:
    """Return the version of an installed distribution; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def engine_reasons(
    needs: dict[str, tuple[str, ...]], refused: dict[str, str] | None = None
) -> dict[str, str]:
    """Return "" for each engine that is usable, else why it is not.

    ``needs`` names the packages of each optional engine and ``refused`` gives reasons that no package mends.
    """
    reasons = {"native": "", "hf": ""}
    for engine, packages in needs.items():
        missing = [package for package in packages if not has_package(package)]
        names = " and ".join(f"'{package}'" for package in missing)
        install = f"engine={engine} needs {names}; run: pip install {' '.join(missing)}"
        reasons[engine] = install.replace("_", "-") if missing else ""
    return reasons | (refused or {})
