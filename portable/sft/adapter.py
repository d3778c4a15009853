"""LoRA through ``peft``: added in place, merged by formula, saved in the layout that ``peft`` loads onto a
``transformers`` model.

Shapes: I in-features, O out-features, R rank.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from portable.core.errors import ConfigError, did_you_mean
from portable.core.random import derive_seed
from portable.core.storage import atomic_path, write_json
from portable.model.weights import hf_name
from portable.sft.config import AdapterConfig

logger = logging.getLogger(__name__)
_A, _B, _BASE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer.weight"


def add_lora(model: nn.Module, config: AdapterConfig, seed: int) -> None:
    """Freeze ``model`` and give the linear layers named in ``target_modules`` a trainable low-rank addition
    of zero.

    A is drawn as ``peft`` does (Kaiming uniform), but from a stream of its own per layer, so that every
    process and device starts alike; B is zero.
    Raises: ConfigError if a target names no linear layer.
    """
    linear = {
        name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    for target in config.target_modules:
        if target not in linear:
            raise ConfigError(
                f"sft.adapter.target_modules names '{target}', which is no linear layer of the model."
                f"{did_you_mean(target, linear)} Known: {', '.join(sorted(linear))}."
            )
    inject_adapter_in_model(_lora_config(config, config.target_modules), model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith(_A):
                continue
            values_RI = torch.empty(parameter.shape)
            stream = torch.Generator().manual_seed(derive_seed(seed, "lora", name))
            nn.init.kaiming_uniform_(values_RI, a=math.sqrt(5), generator=stream)
            parameter.copy_(values_RI)


class LoraMerge:
    """The plain weights of a model with adapters: ``W + alpha / r * B A``, added in float32, in W's own
    format.

    ``adapter`` holds the weights that ``is_adapter``, whole; names are those before ``add_lora``.
    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """

    def __init__(self, adapter: Mapping[str, Tensor], config: AdapterConfig) -> None:
        self._adapter = adapter
        self._factor = config.alpha / config.r

    def name(self, trained: str) -> str | None:
        """Return what a weight was called before; None for those of the adapter."""
        if is_adapter(trained):
            return None
        stem = trained.removesuffix(_BASE)
        return trained if stem == trained else f"{stem}.weight"

    def weight(self, trained: str, value: Tensor) -> Tensor:
        """Return the weight with what the adapter adds to it."""
        stem = trained.removesuffix(_BASE)
        if stem == trained:
            return value
        b_OR, a_RI = self._adapter[stem + _B].float(), self._adapter[stem + _A].float()
        return (value.float() + self._factor * (b_OR @ a_RI)).to(value.dtype)


def is_adapter(name: str) -> bool:
    """Whether a weight is one that ``add_lora`` added."""
    return name.endswith((_A, _B))


def save_lora(state: Mapping[str, Tensor], config: AdapterConfig, path: Path) -> None:
    """Write the adapter among ``state`` as a folder that ``peft`` loads onto a ``transformers`` model."""
    tensors: dict[str, Tensor] = {}
    targets: set[str] = set()
    for name, tensor in state.items():
        for suffix, short in ((_A, "lora_A"), (_B, "lora_B")):
            if name.endswith(suffix):
                layer = hf_name(name.removesuffix(suffix) + ".weight").removesuffix(".weight")
                targets.add(layer.rpartition(".")[2])
                tensors[f"base_model.model.{layer}.{short}.weight"] = tensor.contiguous().cpu()
    settings = _lora_config(config, sorted(targets), task_type="CAUSAL_LM").to_dict()
    # peft keeps targets as a set; sorted, the file is the same in every process.
    write_json(
        path / "adapter_config.json", {**settings, "target_modules": sorted(targets), "inference_mode": True}
    )
    with atomic_path(path / "adapter_model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def _lora_config(config: AdapterConfig, targets: list[str], task_type: str | None = None) -> LoraConfig:
    return LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]  # annotated int; peft only divides by it
        lora_dropout=config.dropout,
        target_modules=list(targets),
        bias="none",
        task_type=task_type,
    )
