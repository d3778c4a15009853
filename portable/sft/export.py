"""What fine-tuning leaves: a whole model folder, and beside it the adapter where one was trained."""

from __future__ import annotations

from pathlib import Path

from portable.model.config import ModelConfig
from portable.model.tokenizer import Tokenizer
from portable.model.weights import MODEL_FILES, weight_files
from portable.parallel.spread_model import SpreadModel
from portable.parallel.whole import whole_weights
from portable.sft.adapter import LoraMerge, is_adapter, save_lora
from portable.sft.config import AdapterConfig, AdapterKind
from portable.train.checkpoint.export import export_model

ADAPTER = "adapter"


def export_tuned(
    trained: SpreadModel, adapter: AdapterConfig, config: ModelConfig, tokenizer: Tokenizer, path: Path
) -> list[str]:
    """Let rank 0 write the folder; return the payload's names. All ranks must call.

    The host's memory beyond the model's is one weight, and the adapter.
    """
    merge = None
    runtime = trained.runtime
    if adapter.kind is AdapterKind.lora:
        shards = [shard for shard in trained.strategy.holdings() if is_adapter(shard.name)]
        weights = dict(whole_weights(shards, runtime.mesh, runtime.device))
        merge = LoraMerge(weights, adapter)
        if runtime.group.rank == 0:
            save_lora(weights, adapter, path / ADAPTER)
    export_model(trained, config, tokenizer, path, merge=merge)
    runtime.group.barrier()
    return [*MODEL_FILES, *weight_files(path), *([] if merge is None else [ADAPTER])]
