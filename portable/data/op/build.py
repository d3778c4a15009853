"""The ops that a config names, made and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from portable.core.errors import ConfigError, did_you_mean
from portable.data.op.protocol import DataOp
from portable.data.registry import DATA_OPS


def build_ops(settings: Mapping[str, Any]) -> dict[str, DataOp]:  # Any: overrides of dataclasses yet unknown
    """Return the named ops in order, each with its defaults changed by its own mapping (None changes
    nothing).

    Raises: ConfigError naming the nearest known op or field, or the value of the wrong type.
    """
    return {name: _build_op(name, overrides) for name, overrides in settings.items()}


def _build_op(name: str, overrides: object) -> DataOp:
    op_class = DATA_OPS.get(name)
    known = [field.name for field in fields(op_class)]
    if overrides is None:
        return op_class()
    if not isinstance(overrides, Mapping):
        raise ConfigError(
            f"data.ops.{name}={overrides!r} is no mapping; write its settings as fields "
            f"({', '.join(known)}), or {{}} for the defaults"
        )
    for key in overrides:
        if key not in known:
            raise ConfigError(
                f"data.ops.{name} has no setting '{key}'.{did_you_mean(str(key), known)} "
                f"Known: {', '.join(known)}."
            )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(op_class), dict(overrides))
        return cast("DataOp", OmegaConf.to_object(merged))  # an object of op_class
    except (ConfigKeyError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"data.ops.{name} cannot be set to {dict(overrides)}: {reason}") from error
