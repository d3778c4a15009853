"""The pretraining stage: from token shards to a model folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from portable.core.artefact import Artefact, open_artefact, seal
from portable.core.errors import ConfigError
from portable.core.workspace import Workspace
from portable.data.format.corpus import read_documents
from portable.data.loader import BatchShape, PackedTokenSource
from portable.data.shard import TokenShards
from portable.model.flops import train_flops_per_token
from portable.model.init import new_model
from portable.model.tokenizer import Tokenizer
from portable.model.weights import MODEL_FILES, save_model, weight_files
from portable.parallel.runtime import Runtime
from portable.train.baseline import unigram_bits_per_byte, xz_bits_per_byte
from portable.train.evaluate import bits_per_byte
from portable.train.next_token import next_token_loss
from portable.train.pretrain_config import PretrainConfig
from portable.train.trainer import Trainer

logger = logging.getLogger(__name__)


def run_pretrain(config: PretrainConfig, runtime: Runtime, workspace: Workspace) -> Artefact:
    """Train a fresh decoder on a corpus, score it beside two baselines, and seal a model folder.

    Called again on the same folder it continues from the newest checkpoint, and ends with the same weights.
    Raises: ConfigError if model, batch and corpus do not fit together.
    """
    corpus = open_artefact(Path(config.data), "corpus").path
    tokenizer = Tokenizer.load(corpus / "tokenizer")
    _check_vocabulary(config, tokenizer)
    heldout = TokenShards.open(corpus / "tokens" / "heldout")
    trainer = _trainer(config, runtime, workspace, corpus, heldout)
    trainer.fit()
    score = _heldout_bits(trainer, config, heldout, None)
    weights = trainer.model.whole_weights()
    artefact = None
    if runtime.group.rank == 0:
        workspace.metrics.write(config.steps, {"heldout_bits_per_byte": score})
        summary = {
            "parameters": sum(tensor.numel() for tensor in weights.values()),
            "steps": config.steps,
            "train_tokens_seen": config.steps * config.global_batch_size * config.seq_len,
            "bits_per_byte": score,
            **_baselines(corpus, score),
        }
        save_model(weights, config.model, tokenizer, workspace.dir)
        artefact = seal(workspace.dir, "model", [*MODEL_FILES, *weight_files(workspace.dir)], summary)
        _report(summary)
    return runtime.group.broadcast_object(artefact)


def _trainer(
    config: PretrainConfig, runtime: Runtime, workspace: Workspace, corpus: Path, heldout: TokenShards
) -> Trainer:
    shape = BatchShape(
        micro_batch_size=config.micro_batch_size,
        grad_accum_steps=config.grad_accum_steps(runtime.readers.size),
        rank=runtime.readers.rank,
        world_size=runtime.readers.size,
    )
    source = PackedTokenSource(
        TokenShards.open(corpus / "tokens" / "train"),
        seq_len=config.seq_len,
        shape=shape,
        seed=config.seed,
        document_mask=config.document_mask,
    )
    runtime.seed_everything(config.seed)
    model = new_model(config.model, runtime.kernels, config.seed, device=runtime.torch_device)

    def evaluate(step: int) -> dict[str, float]:
        return {
            "heldout_bits_per_byte": _heldout_bits(trainer, config, heldout, config.eval_documents or None)
        }

    trainer = Trainer(
        model,
        next_token_loss,
        source,
        config,
        runtime,
        workspace,
        flops_per_token=train_flops_per_token(config.model, config.seq_len),
        evaluate=evaluate,
    )
    return trainer


def _heldout_bits(
    trainer: Trainer, config: PretrainConfig, heldout: TokenShards, max_documents: int | None
) -> float:
    return bits_per_byte(
        trainer.model,
        heldout,
        trainer.runtime,
        seq_len=config.seq_len,
        batch_tokens=config.eval_batch_tokens,
        max_documents=max_documents,
    ).bits_per_byte


def _check_vocabulary(config: PretrainConfig, tokenizer: Tokenizer) -> None:
    if config.model.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size={config.model.vocab_size} has no room for the {tokenizer.vocab_size} tokens "
            f"of the corpus {config.data}; use model.vocab_size of at least {tokenizer.vocab_size}, or train "
            "a smaller tokenizer in the data stage"
        )


def _baselines(corpus: Path, score: float) -> dict[str, Any]:  # Any: numbers and booleans
    """Return the baselines on the very text that the model was scored on, and whether it beats them."""
    train, heldout = (
        [document.text.encode() for document in read_documents(corpus / "documents" / f"{side}.jsonl.zst")]
        for side in ("train", "heldout")
    )
    unigram = unigram_bits_per_byte(train, heldout)
    primed = xz_bits_per_byte(b"\n".join(heldout), b"\n".join(train))
    return {
        "unigram_bits_per_byte": unigram,
        "xz_bits_per_byte": primed,  # the fair one: the compressor, too, has read the training text
        "xz_alone_bits_per_byte": xz_bits_per_byte(b"\n".join(heldout)),
        "beats_unigram": score < unigram,
        "beats_xz": score < primed,
    }


def _report(summary: dict[str, Any]) -> None:  # Any: numbers and booleans
    logger.info(
        "held-out text: %.3f bits per byte; byte frequencies alone %.3f, xz -9e after the training text "
        "%.3f, xz -9e alone %.3f",
        *(summary[f"{name}bits_per_byte"] for name in ("", "unigram_", "xz_", "xz_alone_")),
    )
