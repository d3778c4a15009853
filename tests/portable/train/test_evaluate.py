"""Bits per byte, by hand, by any batching, and with one document at a time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from portable.core.errors import DataError
from portable.data.shard import ShardWriter, TokenShards
from portable.train.evaluate import TextScore, bits_per_byte
from tests.portable.train.support import VOCAB, TinyModel, make_runtime
from tests.processes import run_processes

END = 0
DOCUMENTS = [([3, 1, 4, 1, 5, 9, 2], 11), ([6], 4), ([5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8], 30), ([4, 6, 2], 5)]


def write_shards(path: Path, documents: list[tuple[list[int], int]] = DOCUMENTS) -> TokenShards:
    with ShardWriter(path, vocab_size=VOCAB, end_of_text_id=END) as writer:
        for ids, num_bytes in documents:
            writer.add([*ids, END], num_bytes)
    return TokenShards.open(path)


class Uniform(nn.Module):
    """Gives every token the same probability."""

    def forward(self, ids: Tensor, positions: Tensor, cu_seqlens: Tensor | None, targets: Tensor) -> Tensor:
        return torch.full(targets.shape, -math.log(VOCAB))


def test_every_token_of_the_text_counts_once(tmp_path: Path):
    score = bits_per_byte(Uniform(), write_shards(tmp_path), make_runtime(), seq_len=4)
    counts = np.array([len(ids) for ids, _ in DOCUMENTS])
    np.testing.assert_allclose(score.document_nats, counts * math.log(VOCAB), rtol=1e-6)
    assert score.document_bytes.tolist() == [11, 4, 30, 5]
    assert score.bits_per_byte == pytest.approx(counts.sum() * math.log2(VOCAB) / 50, rel=1e-6)


def by_hand(model: nn.Module, ids: list[int], seq_len: int) -> float:
    context, nats = [END, *ids], 0.0
    for start in range(0, len(ids), seq_len):
        chunk = torch.tensor([context[start : start + seq_len + 1]])
        positions = torch.arange(chunk.shape[1] - 1).unsqueeze(0)
        with torch.no_grad():
            nats -= float(model(chunk[:, :-1], positions, None, targets=chunk[:, 1:]).sum())
    return nats


@pytest.mark.parametrize("batch_tokens", [1, 8, 10_000])
@pytest.mark.parametrize("seq_len", [3, 64])
def test_batching_and_padding_change_nothing(tmp_path: Path, seq_len: int, batch_tokens: int):
    model = TinyModel()
    score = bits_per_byte(
        model, write_shards(tmp_path), make_runtime(), seq_len=seq_len, batch_tokens=batch_tokens
    )
    expected = [by_hand(model, ids, seq_len) for ids, _ in DOCUMENTS]
    np.testing.assert_allclose(score.document_nats, expected, rtol=1e-5)


def test_ranks_share_the_work_and_agree(tmp_path: Path):
    write_shards(tmp_path / "shards")
    model = TinyModel()
    for nats in run_processes(
        "tests.portable.train.case_train:evaluate", 2, tmp_path, str(tmp_path / "shards")
    ):
        np.testing.assert_allclose(nats, [by_hand(model, ids, 4) for ids, _ in DOCUMENTS], rtol=1e-5)


def test_a_bound_takes_the_first_documents(tmp_path: Path):
    score = bits_per_byte(Uniform(), write_shards(tmp_path), make_runtime(), seq_len=8, max_documents=2)
    assert score.document_bytes.tolist() == [11, 4]


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_left_as_it_was_and_dropout_is_off(tmp_path: Path, training: bool):
    model = TinyModel(dropout=0.5)
    model.train(training)
    shards = write_shards(tmp_path)
    first, second = (bits_per_byte(model, shards, make_runtime(), seq_len=8).bits_per_byte for _ in range(2))
    assert first == second
    assert model.training is training


def test_scoring_draws_no_random_number(tmp_path: Path):
    state = torch.get_rng_state()
    bits_per_byte(TinyModel(dropout=0.5), write_shards(tmp_path), make_runtime(), seq_len=8)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_to_score_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="holds no held-out text"):
        bits_per_byte(Uniform(), write_shards(tmp_path, []), make_runtime(), seq_len=8)


def test_a_score_is_bits_over_bytes():
    assert TextScore(
        np.array([math.log(2), math.log(8)]), np.array([1.0, 3.0])
    ).bits_per_byte == pytest.approx(1.0)
