"""The pretraining stage: from token shards to a model folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from portable.core.artefact import Artefact, open_artefact, seal
from portable.core.errors import ConfigError
from portable.core.workspace import Workspace
from portable.data.feed import token_feed
from portable.data.format.corpus import read_documents
from portable.data.loader import BatchShape
from portable.data.shard import TokenShards
from portable.data.source import BatchSource
from portable.model.tokenizer import TOKENIZER_FILES, Tokenizer
from portable.model.weights import MODEL_FILES, weight_files
from portable.parallel.runtime import Runtime
from portable.train.baseline import unigram_bits_per_byte, xz_bits_per_byte
from portable.train.deepspeed_file import settle_deepspeed
from portable.train.evaluate import TextScore, bits_per_byte
from portable.train.initial_model import InitialModel, initial_model
from portable.train.next_token import next_token_loss
from portable.train.pretrain_config import PretrainConfig
from portable.train.trainer import Trainer

logger = logging.getLogger(__name__)


def run_pretrain(config: PretrainConfig, runtime: Runtime, workspace: Workspace) -> Artefact:
    """Train a fresh decoder, or a folder's model, on a corpus; score it beside two baselines, and seal it.

    Called again on the same folder it continues from the newest checkpoint, and ends with the same weights.
    Raises: ConfigError if model, batch and corpus do not fit together.
    """
    readers = runtime.readers.size
    initial = initial_model(config, runtime.kernels)
    initial.check(
        runtime.parallel,
        seq_len=config.seq_len,
        num_micro_batches=config.grad_accum_steps(readers),
    )
    settle_deepspeed(
        config,
        runtime,
        workspace,
        micro_batch_size=config.micro_batch_size,
        grad_accum_steps=config.grad_accum_steps(readers),
    )
    corpora = [open_artefact(Path(folder), "corpus").path for folder in config.corpora]
    tokenizer = Tokenizer.load(corpora[0] / "tokenizer")
    _check_fits(config, initial, tokenizer)
    heldout = [TokenShards.open(corpus / "tokens" / "heldout") for corpus in corpora]
    with _feed(config, runtime) as source:
        trainer = _trainer(config, initial, runtime, workspace, source, heldout)
        trainer.fit()
    scores = _heldout_bits(trainer, config, heldout, None)
    score = scores["heldout_bits_per_byte"]
    num_parameters = initial.export(trainer.model, tokenizer, workspace.dir)
    artefact = None
    if runtime.group.rank == 0:
        workspace.metrics.write(trainer.step, scores)
        summary = {
            "parameters": num_parameters,
            "steps": trainer.step,
            "train_tokens_seen": trainer.step * config.global_batch_size * config.seq_len,
            "bits_per_byte": score,
            **_baselines(corpora, score),
        }
        artefact = seal(workspace.dir, "model", [*MODEL_FILES, *weight_files(workspace.dir)], summary)
        _report(summary)
    return runtime.group.broadcast_object(artefact)


def _feed(config: PretrainConfig, runtime: Runtime) -> AbstractContextManager[BatchSource]:
    shape = BatchShape(
        micro_batch_size=config.micro_batch_size,
        grad_accum_steps=config.grad_accum_steps(runtime.readers.size),
        rank=runtime.readers.rank,
        world_size=runtime.readers.size,
    )
    return token_feed(
        config.data,
        config.mixture,
        seq_len=config.seq_len,
        shape=shape,
        seed=config.seed,
        document_mask=config.document_mask,
        steps=config.steps,
        prefetch_batches=config.prefetch_batches,
    )


def _trainer(
    config: PretrainConfig,
    initial: InitialModel,
    runtime: Runtime,
    workspace: Workspace,
    source: BatchSource,
    heldout: Sequence[TokenShards],
) -> Trainer:
    runtime.seed_everything(config.seed)
    initial.module.z_loss_coef = config.z_loss

    def evaluate(step: int) -> dict[str, float]:
        return _heldout_bits(trainer, config, heldout, config.eval_documents or None)

    trainer = Trainer(
        initial.module,
        next_token_loss,
        source,
        config,
        runtime,
        workspace,
        flops_per_token=initial.flops_per_token(config.seq_len),
        evaluate=evaluate,
        fill=initial.fill,
    )
    return trainer


def _heldout_bits(
    trainer: Trainer, config: PretrainConfig, heldout: Sequence[TokenShards], max_documents: int | None
) -> dict[str, float]:
    """Score the held-out text of every corpus; of a mixture, also tell each corpus's own figure."""
    scores = [
        bits_per_byte(
            trainer.model,
            shards,
            trainer.runtime,
            seq_len=config.seq_len,
            batch_tokens=config.eval_batch_tokens,
            max_documents=max_documents,
        )
        for shards in heldout
    ]
    values = {"heldout_bits_per_byte": TextScore.join(scores).bits_per_byte}
    for corpus, score in zip(config.mixture, scores, strict=False):
        values[f"corpus/{corpus.label}/heldout_bits_per_byte"] = score.bits_per_byte
    return values


def _check_fits(config: PretrainConfig, initial: InitialModel, tokenizer: Tokenizer) -> None:
    path = Path(config.model_path)
    limit = initial.max_seq_len
    if config.model_path and limit is not None and config.seq_len > limit:
        raise ConfigError(
            f"pretrain.seq_len={config.seq_len} is longer than the {limit} tokens of the model {path}; use "
            f"seq_len of at most {limit}"
        )
    holds_tokenizer = config.model_path and all((path / file).is_file() for file in TOKENIZER_FILES)
    if holds_tokenizer and Tokenizer.load(path).inner.get_vocab() != tokenizer.inner.get_vocab():
        raise ConfigError(
            f"the corpus {config.corpora[0]} was made with another tokenizer than that of "
            f"pretrain.model_path={path}, whose ids mean other words; make the corpus with that one"
        )
    if initial.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size={initial.vocab_size} has no room for the {tokenizer.vocab_size} tokens "
            f"of the corpus {config.corpora[0]}; use model.vocab_size of at least {tokenizer.vocab_size}, or "
            "train a smaller tokenizer in the data stage"
        )


def _baselines(corpora: Sequence[Path], score: float) -> dict[str, Any]:  # Any: numbers and booleans
    """Return the baselines on the very text that the model was scored on, and whether it beats them."""
    train, heldout = (
        [
            document.text.encode()
            for corpus in corpora
            for document in read_documents(corpus / "documents" / f"{side}.jsonl.zst")
        ]
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
