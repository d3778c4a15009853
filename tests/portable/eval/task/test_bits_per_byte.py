import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from portable.data.shard import TokenShards
from portable.eval.config import EvalConfig
from portable.eval.task.bits_per_byte import BitsPerByte
from portable.eval.task.protocol import Subject
from portable.model.tokenizer import Tokenizer


def test_a_model_that_knows_nothing_needs_log2_of_its_vocabulary_per_token(
    config: EvalConfig, subject: Subject, save: Callable[..., Path], tokenizer: Tokenizer, corpus: Path
):
    # With almost no weight in the embedding every token is as likely as any other.
    blank = replace(subject, path=save(tokenizer, 0, init_std=1e-6))
    estimate = BitsPerByte(config).run(blank).estimate
    shards = TokenShards.open(corpus / "tokens" / "heldout")
    num_tokens = shards.num_tokens - len(shards)  # the closing end-of-text tokens stand for no byte
    assert estimate.value == pytest.approx(
        math.log2(tokenizer.vocab_size) * num_tokens / shards.num_bytes, rel=1e-3
    )
    assert estimate.count == 12
    assert estimate.low <= estimate.value <= estimate.high


def test_a_model_with_another_tokenizer_is_scored_on_the_same_text(
    config: EvalConfig, subject: Subject, save: Callable[..., Path], other_tokenizer: Tokenizer, corpus: Path
):
    blank = replace(subject, path=save(other_tokenizer, 0, init_std=1e-6))
    estimate = BitsPerByte(config).run(blank).estimate
    own, again = TokenShards.open(corpus / "tokens" / "heldout"), TokenShards.open(subject.scratch / "tokens")
    assert again.num_bytes == own.num_bytes
    assert again.num_tokens > own.num_tokens  # fewer merges
    wanted = math.log2(other_tokenizer.vocab_size) * (again.num_tokens - len(again)) / own.num_bytes
    assert estimate.value == pytest.approx(wanted, rel=1e-3)


def test_fewer_documents_may_be_asked_for(config: EvalConfig, subject: Subject):
    assert BitsPerByte(replace(config, num_documents=5)).run(subject).estimate.count == 5
