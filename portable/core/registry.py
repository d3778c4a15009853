"""Names for code: ``(kind, name)`` to a lazily imported ``"package.module:attribute"``.

Built-in names are listed as text, so naming a thing imports nothing; ``register`` adds a name from a
decorator; installed packages add theirs through entry points.
"""

import importlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, TypeVar

from portable.core.errors import BackendUnavailable, ConfigError, did_you_mean

T = TypeVar("T")


class Registry:
    """One kind of thing that a config may name, e.g. data ops or scorers."""

    def __init__(
        self, kind: str, targets: Mapping[str, str] | None = None, *, entry_group: str | None = None
    ) -> None:
        self.kind = kind
        self.entry_group = entry_group
        self._targets: dict[str, str] = dict(targets or {})
        self._objects: dict[str, Any] = {}  # Any: a registry holds classes and functions of every signature
        self._plugins_read = entry_group is None

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate a class or function so that configs can name it; a second owner of a name is an error."""

        def keep(item: T) -> T:
            if name in self._objects and self._objects[name] is not item:
                raise ConfigError(f"{self.kind} '{name}' is registered twice; give one of them another name")
            self._objects[name] = item
            return item

        return keep

    def get(self, name: str) -> Any:  # Any: a class or function of any signature
        """Return what ``name`` stands for, importing it on first use.

        Raises: ConfigError with the nearest known names.
        """
        if name in self._objects:
            return self._objects[name]
        targets = self._all_targets()
        if name not in targets:
            raise ConfigError(
                f"no {self.kind} is called '{name}'.{did_you_mean(name, self)} Known: {', '.join(self)}."
            )
        self._objects[name] = load_target(targets[name])
        return self._objects[name]

    def __contains__(self, name: str) -> bool:
        return name in self._objects or name in self._all_targets()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._all_targets(), *self._objects}))

    def _all_targets(self) -> dict[str, str]:
        if not self._plugins_read and self.entry_group is not None:
            for point in entry_points(group=self.entry_group):
                self._targets.setdefault(point.name, point.value)
            self._plugins_read = True
        return self._targets


@contextmanager
def blame(failure: str) -> Generator[None]:
    """Turn whatever an installed package raises into a BackendUnavailable that begins with ``failure``."""
    try:
        yield
    except (Exception, SystemExit) as error:  # the code is somebody else's, and so are its exceptions
        raise BackendUnavailable(f"{failure} ({type(error).__name__}: {error})") from error


def load_target(target: str) -> Any:  # Any: whatever the module holds under that name
    """Import ``"package.module:attribute"`` and return the attribute."""
    module_name, _, attribute = target.partition(":")
    if not attribute:
        raise ConfigError(f"target '{target}' is not of the form package.module:attribute")
    return getattr(importlib.import_module(module_name), attribute)
