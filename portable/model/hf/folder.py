"""Folders of ``transformers`` to models and back: any that its ``AutoModelForCausalLM`` knows."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from portable.core.errors import ArtefactError
from portable.core.storage import explain_os_errors, read_json, write_json
from portable.kernel.registry import KernelSet
from portable.model.hf.adapter import HfDecoder
from portable.model.hf.attention import NAME, register_attention
from portable.model.hf.names import StoredNames
from portable.model.tokenizer import Tokenizer
from portable.model.weight_stream import (
    INDEX,
    MAX_SHARD_BYTES,
    Fact,
    StoredWeights,
    write_weights,
)

logger = logging.getLogger(__name__)
# Constants that older files carry: frequencies, which the config decides, and GPT-2's mask.
_COMPUTED = r"(rotary_emb\.inv_freq|attn\.masked_bias)$"


class Box(Protocol):
    """A part of a tensor."""

    @property
    def offset(self) -> tuple[int, ...]:
        """Where it begins."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """How far it goes."""
        ...


class HfWeights:
    """The initial values of an ``HfDecoder``: what a folder's files hold, and the buffers they do not."""

    def __init__(self, names: StoredNames, buffers: Mapping[str, Tensor]) -> None:
        self.names = names
        self._buffers = {name: value for name, value in buffers.items() if name not in self.names}

    def __call__(self, name: str, shape: tuple[int, ...], box: Box) -> Tensor:
        """Return a box of a parameter or buffer of whole ``shape``, reading no more bytes than that.

        Raises: ArtefactError if the files lack it or hold another shape.
        """
        if name in self._buffers:
            where = tuple(slice(at, at + size) for at, size in zip(box.offset, box.shape, strict=True))
            return self._buffers[name][where]
        return self.names.box(name, shape, box.offset, box.shape)


def empty_hf(path: Path, kernels: KernelSet) -> tuple[HfDecoder, HfWeights]:
    """Return the model in a folder, its parameters on the meta device, and what fills them.

    Raises: ArtefactError if the folder holds no model that transformers knows, or tensors that the model has
    no place for; CapabilityError for a model that ``HfDecoder`` refuses.
    """
    from transformers import AutoConfig

    if not (path / "config.json").is_file():
        raise ArtefactError(f"{path} holds no config.json; name the folder of a model of transformers")
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        model, buffers, lm = bare_hf(config, kernels)
    except (ValueError, KeyError, OSError) as error:
        raise ArtefactError(f"transformers cannot make the model of {path}: {error}") from error
    names = StoredNames(StoredWeights(path), _renaming(lm))
    _check_all_used(names, model, lm)
    return model, HfWeights(names, buffers)


# Any: a PretrainedConfig and a PreTrainedModel, whose modules take seconds to import
def bare_hf(config: Any, kernels: KernelSet) -> tuple[HfDecoder, dict[str, Tensor], Any]:
    """Return the model of a config, on the meta device in float32, the values of its buffers, and what it was
    made from.

    Raises: CapabilityError for a model that ``HfDecoder`` refuses.
    """
    from transformers import AutoModelForCausalLM

    register_attention()
    with torch.device("meta"):  # in float32: the format of a run's parameters is the strategy's business
        lm = AutoModelForCausalLM.from_config(config, attn_implementation=NAME, dtype=torch.float32)
    _make_buffers(lm)
    with torch.device("meta"):
        model = HfDecoder(lm, kernels)
    return model, {name: buffer.clone() for name, buffer in model.named_buffers()}, lm


def load_hf(
    path: Path,
    kernels: KernelSet,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> HfDecoder:
    """Read a whole model. Raises: as ``empty_hf``, and ArtefactError for weights that are missing."""
    model, weights = empty_hf(path, kernels)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.to_empty(device=device)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            tensor.copy_(weights(name, tuple(tensor.shape), _Whole(tuple(tensor.shape))))
    return model


def save_hf_stream(
    facts: Mapping[str, Fact],
    weights: Iterable[tuple[str, Tensor]],
    names: StoredNames,
    tokenizer: Tokenizer,
    path: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write trained ``weights``, as ``save_stream`` does, into a folder with the config and the tensors'
    names of the folder that the model came from, whose ``names`` these are.

    Raises: StorageError if the disk refuses.
    """
    source = names.stored.path
    config = read_json(source / "config.json")
    outside = names.outside(facts)
    with explain_os_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        for stale in [*path.glob("model*.safetensors"), path / INDEX]:
            stale.unlink(missing_ok=True)
    dtype = str(next(iter(facts.values())).dtype).removeprefix("torch.")
    config.pop("torch_dtype", None)  # the older word for it
    write_json(path / "config.json", config | {"dtype": dtype})
    generation = source / "generation_config.json"
    write_json(path / "generation_config.json", read_json(generation) if generation.is_file() else {})
    tokenizer.save(path)
    write_weights(outside, names.carry(weights), path, max_shard_bytes=max_shard_bytes)


def _check_all_used(names: StoredNames, model: HfDecoder, lm: Any) -> None:  # Any: a PreTrainedModel
    """Say which tensors of the files are left out because transformers leaves them out, or because the head
    is the embedding. Raises: ArtefactError if there are others.
    """
    parameters = (name for name, _ in (*model.named_parameters(), *model.named_buffers()))
    harmless = [_COMPUTED, *(lm._keys_to_ignore_on_load_unexpected or ())]
    if model.tied and model.places.head:
        harmless.append(f"^{re.escape(model.places.head)}\\.weight$")
    left: list[str] = []
    strange: list[str] = []
    for theirs, name in sorted(names.unused(parameters).items()):
        (left if any(re.search(pattern, name) for pattern in harmless) else strange).append(theirs)
    if strange:
        raise ArtefactError(
            f"{names.stored.path} holds {len(strange)} tensors that a {type(lm).__name__} has no place for: "
            f"{_some(strange)}; training would lose them. Use the config.json of this very model; merge "
            "adapters into it, and unpack quantised weights, before"
        )
    if left:
        logger.info(
            "%s: %d tensors are left out, as %s leaves them out: %s",
            *(names.stored.path, len(left), type(lm).__name__, _some(left)),
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


class _Whole:
    """All of a tensor."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.offset = (0,) * len(shape)
        self.shape = shape


def _renaming(lm: Any) -> Callable[[str], str]:  # Any: a PreTrainedModel
    """Return what turns the names in its family's files into those of its code."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    steps = [step for step in get_model_conversion_mapping(lm) if isinstance(step, WeightRenaming)]

    def rename(name: str) -> str:
        for step in steps:
            name, _ = step.rename_source_key(name)
        return name

    return rename


def _make_buffers(lm: Any) -> None:  # Any: a PreTrainedModel
    """Give every buffer the value that transformers gives it, on the host: files hold few of them."""
    modules: list[nn.Module] = list(lm.modules())
    for module in modules:
        buffers = dict(module.named_buffers(recurse=False))
        if not buffers:
            continue
        kept = module.state_dict().keys()  # torch calls them persistent
        own = {key: torch.zeros_like(value, device="cpu") for key, value in buffers.items()}
        for key, value in own.items():
            module.register_buffer(key, value, persistent=key in kept)
        # What transformers itself calls after loading on meta; parameters are there still.
        lm._init_weights(module)
