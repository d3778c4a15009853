"""Where the YAML files are: ours, and those of installed packages.

A package adds its own by the entry-point group ``portable.conf``, whose value is a folder inside the
package, written with dots: ``maker = "maker_portable.conf"``. A user adds some by ``--config-dir``. Of two
files with the same name the first found is taken, and ours come first: an added file changes none of ours.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from portable.core.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.config_search_path import ConfigSearchPath

GROUP = "portable.conf"


def conf_dir() -> Path:
    """Return our ``conf`` folder: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "machine.yaml").is_file():
            return candidate
    raise ConfigError(f"the configuration files are missing beside {package}; install portable-llm again")


def plugin_conf_dirs() -> dict[str, Path]:
    """Return the folders that installed packages add, by the name of their entry point.

    Raises: ConfigError if a package names a folder that it does not have.
    """
    return {point.name: _folder(point) for point in sorted(entry_points(group=GROUP))}


def _folder(point: EntryPoint) -> Path:
    """Find the folder without importing the package, which may be broken and is not needed for its YAML."""
    package, *inside = point.value.split(".")
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        folder = Path(place, *inside)
        if folder.is_dir():
            return folder.resolve()
    owner = point.dist.name if point.dist else "an installed package"
    raise ConfigError(
        f"{owner} registers {point.value} as a folder of YAML files, but has no such folder; "
        f"install {owner} again"
    )


def join_search_path() -> None:
    """Let Hydra look into the folders of installed packages, after ours; calling it twice does no harm."""
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class PortableSearchPath(SearchPathPlugin):
        """Hydra makes one whenever it composes."""

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            """Append what the entry points name."""
            for name, folder in plugin_conf_dirs().items():
                search_path.append(f"portable.conf:{name}", f"file://{folder}")

    plugins = Plugins.instance()
    known = {plugin.__name__ for plugin in plugins.discover(SearchPathPlugin)}
    if PortableSearchPath.__name__ not in known:
        plugins.register(PortableSearchPath)
