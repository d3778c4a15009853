"""Where the YAML files are.

A plug-in adds its own through Hydra's ``SearchPathPlugin``; a user, by ``--config-dir``.
"""

from pathlib import Path

from portable.core.errors import ConfigError


def conf_dir() -> Path:
    """Return our ``conf`` folder: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "machine.yaml").is_file():
            return candidate
    raise ConfigError(f"the configuration files are missing beside {package}; install portable-llm again")
