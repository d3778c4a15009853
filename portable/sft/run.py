"""The SFT stage: a model and conversations in, a model that answers out."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from portable.core.artefact import Artefact, seal
from portable.core.errors import ConfigError
from portable.core.storage import write_json
from portable.core.workspace import Workspace
from portable.data.loader import BatchShape, IndexedSource
from portable.engine.build import build_engine
from portable.engine.config import EngineConfig
from portable.eval.generate import Question, answer_questions, draw_sample, to_questions
from portable.eval.scorer.match import token_f1
from portable.model.config import ModelConfig
from portable.model.flops import train_flops_per_token
from portable.model.tokenizer import Tokenizer
from portable.model.weights import load_model
from portable.parallel.check import check_layout
from portable.parallel.runtime import Runtime
from portable.parallel.spread_model import SpreadModel
from portable.sft.adapter import add_lora
from portable.sft.collate import Collator, Row, to_rows
from portable.sft.config import AdapterKind, SftConfig
from portable.sft.corpus import arithmetic_format, read_splits
from portable.sft.export import export_tuned
from portable.sft.mask import to_examples
from portable.train.deepspeed_file import settle_deepspeed
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Data:
    """Rows of both splits, and the held-out questions whose answers are read."""

    train: list[Row]
    heldout: list[Row]
    questions: list[Question]
    num_train: int
    num_heldout: int


def run_sft(config: SftConfig, runtime: Runtime, engine: EngineConfig, workspace: Workspace) -> Artefact:
    """Fine-tune ``config.model_path`` and seal the result.

    That is a whole model folder, also where an adapter was trained. Held-out loss (nats per answer token) and
    answer F1 are measured before and after. A second call on the same workspace continues from the newest
    checkpoint.

    Raises: ConfigError if lengths or batch sizes do not fit.
    """
    base = Path(config.model_path)
    tokenizer = Tokenizer.load(base)
    runtime.seed_everything(config.seed)
    model, model_config = load_model(
        base, runtime.kernels, runtime.precision.param_dtype.torch(), runtime.torch_device
    )
    _check_seq_len(config, model_config)
    check_layout(
        runtime.parallel,
        model_config,
        seq_len=config.seq_len,
        num_micro_batches=config.grad_accum_steps(runtime.readers.size),
    )
    settle_deepspeed(
        config,
        runtime,
        workspace,
        micro_batch_size=config.micro_batch_size,
        grad_accum_steps=config.grad_accum_steps(runtime.readers.size),
    )
    data = _read_data(config, tokenizer)
    if config.adapter.kind is AdapterKind.lora:
        add_lora(model, config.adapter, config.seed)
    num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    collate = Collator(tokenizer.pad_token_id, config.seq_len if config.packing else None)
    trainer = _build_trainer(config, runtime, workspace, model, model_config, data, collate)

    answers_before = _answer(base, data.questions, config, engine, runtime)
    loss_before = heldout_loss(trainer.model, data.heldout, collate, config.micro_batch_size, runtime)
    trainer.fit()
    loss_after = heldout_loss(trainer.model, data.heldout, collate, config.micro_batch_size, runtime)
    payload = export_tuned(trainer.model, config.adapter, model_config, tokenizer, workspace.dir)
    answers_after = _answer(workspace.dir, data.questions, config, engine, runtime)

    samples = _compare(data.questions, answers_before, answers_after)
    summary = {
        "num_train": data.num_train,
        "num_heldout": data.num_heldout,
        "num_rows": len(data.train),
        "steps": trainer.config.steps,
        "parameters_trained": num_trained,
        "heldout_loss_before": round(loss_before, 4),
        "heldout_loss_after": round(loss_after, 4),
        "f1_before": round(_mean([sample["f1_before"] for sample in samples]), 4),
        "f1_after": round(_mean([sample["f1_after"] for sample in samples]), 4),
    }
    logger.info(
        "held-out loss %.3f → %.3f nats per answer token; answer F1 %.3f → %.3f",
        *(loss_before, loss_after, summary["f1_before"], summary["f1_after"]),
    )
    return _finish(workspace, runtime, payload, samples, summary)


def heldout_loss(
    model: SpreadModel, rows: Sequence[Row], collate: Collator, micro_batch_size: int, runtime: Runtime
) -> float:
    """Return the mean nats per learnt token of ``rows``. Every rank must call it, and reads all rows."""
    was_training = model.training
    model.eval()
    loss_sum = num_terms = 0.0
    with torch.no_grad():
        for first in range(0, len(rows), micro_batch_size):
            batch = collate(rows[first : first + micro_batch_size])
            with runtime.device.autocast(runtime.precision.compute_dtype):
                loss_sum += float(next_token_loss(model, batch.to(runtime.torch_device)).loss)
            num_terms += batch.num_terms
    model.train(was_training)
    return loss_sum / num_terms


def _read_data(config: SftConfig, tokenizer: Tokenizer) -> _Data:
    train, heldout = read_splits(Path(config.data), config.seed)
    mixed = train + arithmetic_format(
        config.arithmetic_num_digits, config.arithmetic_format_examples, config.seed
    )
    examples = {
        split: to_examples(tokenizer, items, seq_len=config.seq_len, overlong=config.overlong)
        for split, items in (("train", mixed), ("heldout", heldout))
    }
    rows = {
        split: to_rows(items, config.seq_len, packing=config.packing) for split, items in examples.items()
    }
    num_tokens = sum(map(len, examples["train"]))
    logger.info(
        "%d conversations (%d of them arithmetic form) in %d rows of up to %d tokens, %.1f %% full",
        *(len(examples["train"]), config.arithmetic_format_examples, len(rows["train"]), config.seq_len),
        100 * num_tokens / (len(rows["train"]) * config.seq_len),
    )
    questions = draw_sample(to_questions(heldout), config.num_questions, config.seed)
    return _Data(rows["train"], rows["heldout"], questions, len(examples["train"]), len(examples["heldout"]))


def _build_trainer(
    config: SftConfig,
    runtime: Runtime,
    workspace: Workspace,
    model: nn.Module,
    model_config: ModelConfig,
    data: _Data,
    collate: Collator,
) -> Trainer:
    group = runtime.readers
    accum = config.grad_accum_steps(group.size)
    shape = BatchShape(config.micro_batch_size, accum, group.rank, group.size)
    source = IndexedSource(data.train, collate, shape=shape, seed=config.seed)
    trainer: Trainer

    def evaluate(step: int) -> Mapping[str, float]:
        loss = heldout_loss(trainer.model, data.heldout, collate, config.micro_batch_size, runtime)
        logger.info("step %d: held-out loss %.4f nats per answer token", step, loss)
        return {"heldout_loss": loss}

    trainer = Trainer(
        model,
        next_token_loss,
        source,
        replace(config, steps=config.num_steps(len(data.train))),
        runtime,
        workspace,
        flops_per_token=train_flops_per_token(model_config, config.seq_len),
        evaluate=evaluate,
    )
    return trainer


def _answer(
    model_dir: Path, questions: Sequence[Question], config: SftConfig, engine: EngineConfig, runtime: Runtime
) -> list[str]:
    return answer_questions(
        build_engine(model_dir, engine, runtime), questions, max_new_tokens=config.max_new_tokens
    )


def _compare(
    questions: Sequence[Question], before: Sequence[str], after: Sequence[str]
) -> list[dict[str, Any]]:  # Any: JSON values
    return [
        {
            "prompt": question.text,
            "reference": question.reference,
            "before": old,
            "after": new,
            "f1_before": token_f1(old, question.reference),
            "f1_after": token_f1(new, question.reference),
        }
        for question, old, new in zip(questions, before, after, strict=True)
    ]


def _finish(
    workspace: Workspace,
    runtime: Runtime,
    payload: list[str],
    samples: list[dict[str, Any]],  # Any: JSON values
    summary: dict[str, Any],
) -> Artefact:
    if runtime.group.rank == 0:
        write_json(workspace.dir / "samples.json", samples)
        artefact = seal(workspace.dir, "model", payload, summary)
        shutil.rmtree(workspace.checkpoint_dir, ignore_errors=True)  # not needed once sealed
    else:
        artefact = None
    return runtime.group.broadcast_object(artefact)


def _check_seq_len(config: SftConfig, model: ModelConfig) -> None:
    if config.seq_len > model.max_seq_len:
        raise ConfigError(
            f"sft.seq_len={config.seq_len} is longer than the {model.max_seq_len} tokens that "
            f"{config.model_path} was made for; use at most {model.max_seq_len}"
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
