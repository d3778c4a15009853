"""A tuned model written by two ranks, in layouts that divide it, and by one process."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from portable.model.config import ModelConfig
from portable.model.init import new_model
from portable.model.weights import save_model
from portable.parallel.config import ParallelConfig
from portable.parallel.spread import spread
from portable.sft.adapter import LoraMerge, add_lora
from portable.sft.config import AdapterConfig, AdapterKind
from portable.sft.export import export_tuned
from portable.testing.engine.tiny import make_tokenizer
from portable.testing.runtime import make_runtime, with_strategy
from portable.train.checkpoint import export
from portable.train.precision import forward_context

SHAPE = ModelConfig(
    vocab_size=307,
    hidden_size=32,
    intermediate_size=45,
    num_layers=3,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
)
ADAPTERS = {
    "whole": AdapterConfig(),
    "lora": AdapterConfig(kind=AdapterKind.lora, r=4, alpha=6.0, target_modules=["q", "down"]),
}
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "fsdp": ("fsdp", {}),
    "pp": ("single", {"pipeline_parallel_degree": 2}),
}
_streamed: list[weakref.ref[Tensor]] = []
_most = 0


def together(folder: str) -> dict[str, int]:
    """Write every kind in every layout below ``folder``, one process's result in "alone"; return the number
    of streamed weights that were ever alive at once on this rank.
    """
    base = make_runtime("cpu", "ddp")
    tokenizer = make_tokenizer()
    streamed, export.whole_weights = export.whole_weights, _watched(export.whole_weights)
    for kind, adapter in ADAPTERS.items():
        for name, (strategy, settings) in LAYOUTS.items():
            runtime = with_strategy(base, strategy, parallel=ParallelConfig(**settings))
            model = _tuned(runtime.kernels, adapter)
            spread_model = spread(model, runtime, forward_context(runtime))
            export_tuned(spread_model, adapter, SHAPE, tokenizer, Path(folder) / kind / name)
        if base.group.rank == 0:
            state = _tuned(base.kernels, adapter).state_dict()
            merge = LoraMerge(state, adapter)
            plain = {own: merge.weight(n, v) for n, v in state.items() if (own := merge.name(n)) is not None}
            save_model(plain, SHAPE, tokenizer, Path(folder) / kind / "alone")
    export.whole_weights = streamed
    base.group.close()
    return {"most_alive": _most}


def _tuned(kernels: Any, adapter: AdapterConfig) -> Any:
    model = new_model(SHAPE, kernels, seed=3)
    if adapter.kind is AdapterKind.lora:
        add_lora(model, adapter, seed=0)
        stream = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(0, 0.2, generator=stream)
    return model


def _watched(whole_weights: Any) -> Any:
    def watched(*args: Any) -> Iterator[tuple[str, Tensor]]:
        global _most
        weights: Iterable[tuple[str, Tensor]] = whole_weights(*args)
        for name, weight in weights:
            _streamed.append(weakref.ref(weight))
            _most = max(_most, sum(found() is not None for found in _streamed))
            yield name, weight

    return watched
