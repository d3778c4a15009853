"""Where the parts of a model lie that a device cannot hold: the device first, then the host, then a disk."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from portable.core.errors import ConfigError, StorageError
from portable.core.text import format_bytes, parse_bytes
from portable.device.select import load_backend
from portable.engine.config import HfEngineConfig, MaxMemoryConfig

if TYPE_CHECKING:
    from portable.parallel.runtime import Runtime

logger = logging.getLogger(__name__)
HOST, DISK = "cpu", "disk"  # accelerate's words
_SHARE = 0.9  # of free memory; caches and activations need the rest


def make_device_map(model_dir: Path, config: HfEngineConfig, runtime: Runtime) -> dict[str, str]:
    """Return a place for every module of the model: the device, ``cpu`` or ``disk``. No weight is read.

    Raises: ConfigError if the model does not fit, or accelerate is not installed; StorageError if the folder
    cannot be written.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise ConfigError(
            "engine.device_map=auto needs the package accelerate, which is not installed; run pip install "
            "'portable-llm[accelerate]', or use engine.device_map=none"
        )
    if config.offload_folder:
        _check_folder(Path(config.offload_folder))
    model = _empty_model(model_dir, runtime)
    budgets = _budgets(config.max_memory, runtime)
    places = _infer(model, budgets)
    taken = _bytes_by_place(model, places)
    _check_fit(model, budgets, taken, config)
    logger.info("the model lies on: %s", _listed(taken))
    return {
        name: place if isinstance(place, str) else str(runtime.device.torch_device(place))
        for name, place in places.items()
    }


# Any: transformers' model classes share no typed base
def _empty_model(model_dir: Path, runtime: Runtime) -> Any:
    from accelerate import init_empty_weights

    with init_empty_weights():
        config = AutoConfig.from_pretrained(model_dir, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=runtime.precision.param_dtype.torch())
    model.tie_weights()
    return model


def _budgets(max_memory: MaxMemoryConfig, runtime: Runtime) -> dict[int | str, int]:
    """Return bytes by place, in the order of filling; a device goes by its number."""
    device = runtime.device
    host = parse_bytes(max_memory.host) if max_memory.host else None
    each = parse_bytes(max_memory.device) if max_memory.device else None
    if device.torch_type == HOST:  # device and host are one memory
        given = [size for size in (host, each) if size is not None]
        return {HOST: min(given) if given else _free(device.memory().free_bytes)}
    index = runtime.group.local_rank
    if each is None:
        each = _free(device.memory(index).free_bytes)
    if host is None:
        host = _free(load_backend(HOST).device().memory().free_bytes)
    return {index: each, HOST: host}


def _free(free_bytes: int) -> int:
    return int(free_bytes * _SHARE)


# Any: as above
def let_host_read(model: Any) -> None:
    """Have the host read what lies on a disk; accelerate would have safetensors read it to the device, which
    knows few kinds of devices.
    """
    from accelerate.hooks import AlignDevicesHook, SequentialHook
    from accelerate.utils import OffloadedWeightsLoader, PrefixedDataset

    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)  # accelerate's mark on a module that it moves weights for
        for part in hook.hooks if isinstance(hook, SequentialHook) else [hook]:
            weights = part.weights_map if isinstance(part, AlignDevicesHook) else None
            while isinstance(weights, PrefixedDataset):
                weights = weights.dataset
            if isinstance(weights, OffloadedWeightsLoader):
                weights.device = None


# Any: as above
def _infer(model: Any, budgets: Mapping[int | str, int]) -> dict[str, int | str]:
    from accelerate import infer_auto_device_map

    log = logging.getLogger("accelerate.utils.modeling")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of devices whose kind it does not know
    try:
        places = infer_auto_device_map(
            model, max_memory=dict(budgets), no_split_module_classes=_blocks(model)
        )
        return cast("dict[str, int | str]", places)
    finally:
        log.setLevel(level)


# Any: as above
def _blocks(model: Any) -> list[str]:
    return list(model._no_split_modules or [])


def _bytes_by_place(model: nn.Module, places: Mapping[str, int | str]) -> Counter[int | str]:
    taken: Counter[int | str] = Counter()
    for name, parameter in model.named_parameters():
        module = name
        while module and module not in places:
            module = module.rpartition(".")[0]
        taken[places[module]] += parameter.nbytes
    return taken


# Any: as above
def _check_fit(
    model: Any, budgets: Mapping[int | str, int], taken: Counter[int | str], config: HfEngineConfig
) -> None:
    """Raises: ConfigError if weights would go to a disk that nobody named, or none onto a device."""
    from accelerate.utils import calculate_maximum_sizes

    _, (largest, _) = calculate_maximum_sizes(model)
    first = next(iter(budgets))
    # A device that holds nothing would not be found to compute on; the host always is.
    if budgets[first] < largest or (first != HOST and not taken[first]):
        raise ConfigError(
            f"engine.device_map=auto: no part of the model fits {_called(first)}, which has "
            f"{format_bytes(budgets[first])} for weights and must keep {format_bytes(largest)} free for the "
            f"largest block that is brought to it; give engine.max_memory.{_field(first)} more"
        )
    if taken[DISK] and not config.offload_folder:
        raise ConfigError(
            f"engine.device_map=auto: the model takes {format_bytes(taken.total())}, and "
            f"{format_bytes(taken[DISK])} of it found no room in: {_listed(budgets)} (where a block's "
            f"{format_bytes(largest)} are kept free); give engine.max_memory.* more, or a folder on a disk "
            "by engine.offload_folder=FOLDER"
        )


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(
            f"engine.offload_folder={folder} cannot be written: {error.strerror}; name a folder that can"
        ) from error


def _listed(sizes: Mapping[int | str, int]) -> str:
    return ", ".join(f"{_called(place)} {format_bytes(size)}" for place, size in sizes.items() if size)


def _called(place: int | str) -> str:
    return {HOST: "host memory", DISK: "disk"}.get(str(place), f"device {place}")


def _field(place: int | str) -> str:
    return "host" if place == HOST else "device"
