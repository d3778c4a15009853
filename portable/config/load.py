"""Compose YAML and overrides into a dataclass, once. From there on only dataclasses travel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portable.config.alias import resolve_aliases
from portable.config.explain import explain, explain_null
from portable.config.search_path import conf_dir, join_search_path
from portable.config.store import SCHEMAS, register_schemas

if TYPE_CHECKING:
    from omegaconf import DictConfig


def compose(verb: str, overrides: Sequence[str] = (), config_dir: Path | None = None) -> DictConfig:
    """Compose the config of ``verb``.

    Raises: ConfigError that names the setting and the nearest legal one.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    register_schemas()
    join_search_path()
    GlobalHydra.instance().clear()
    search = [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir is not None else []
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3", job_name=verb):
        try:
            return hydra.compose(verb, overrides=[*search, *resolve_aliases(overrides)])
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error, hydra.compose(verb)) from error
        except AssertionError as error:
            raise explain_null(overrides, hydra.compose(verb)) from error


def choices(group: str) -> list[str]:
    """Return the names of the files in a config group: ours and those of installed packages."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.object_type import ObjectType

    join_search_path()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        names = GlobalHydra.instance().config_loader().get_group_options(group, ObjectType.CONFIG)
    schemas = {schema.name for schema in SCHEMAS if schema.group == group}
    return [name for name in names if name not in schemas]


def to_dataclass(config: DictConfig) -> Any:  # Any: the job dataclass of the verb that was composed
    """Return the typed form of a composed config; dataclasses check themselves while they are built."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        job = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise explain(error) from error
    return job


def load(
    verb: str, overrides: Sequence[str] = (), config_dir: Path | None = None
) -> Any:  # Any: see to_dataclass
    """Return the job dataclass of ``verb``; the Python counterpart of the command line."""
    return to_dataclass(compose(verb, overrides, config_dir))
