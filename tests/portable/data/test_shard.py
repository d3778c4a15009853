"""Token shards: what is written is what is read, and damage is noticed."""

import json

import numpy as np
import pytest

from portable.core.errors import ArtefactError, ConfigError, DataError
from portable.data.shard import DOCUMENTS, INDEX, ShardWriter, TokenShards, token_dtype


def test_round_trip_keeps_ids_lengths_and_bytes(make_shards):
    shards = make_shards([3, 1, 5])
    assert [shards.document(i).tolist() for i in range(3)] == [[100, 101, 0], [0], [300, 301, 302, 303, 0]]
    assert (len(shards), shards.num_tokens, shards.num_bytes) == (3, 9, 27)
    assert shards.token_counts_D.tolist() == [3, 1, 5]
    assert shards.byte_counts_D.tolist() == [9, 3, 15]


def test_documents_are_views_of_the_file(make_shards):
    shards = make_shards([4, 4])
    assert isinstance(shards.document(1).base, np.memmap) or isinstance(shards.document(1), np.memmap)
    assert not shards.document(1).flags.writeable


@pytest.mark.parametrize("shard_tokens", [1, 4, 7, 100])
def test_shard_size_changes_files_but_not_documents(make_shards, shard_tokens):
    lengths = [3, 4, 2, 9, 1, 1]
    shards = make_shards(lengths, shard_tokens=shard_tokens)
    assert [shards.document(i).tolist() for i in range(6)] == [
        make_shards(lengths, name="one").document(i).tolist() for i in range(6)
    ]


def test_a_document_never_straddles_two_shards(make_shards):
    shards = make_shards([3, 4, 2, 9], shard_tokens=5)
    index = json.loads((shards.path / INDEX).read_text())
    assert [item["num_tokens"] for item in index["shards"]] == [3, 4, 2, 9]
    assert sorted(file.name for file in shards.path.glob("*.bin")) == [f"{i:05d}.bin" for i in range(4)]


def test_the_narrowest_dtype_is_used(tmp_path):
    assert token_dtype(2**16).itemsize == 2
    assert token_dtype(2**16 + 1).itemsize == 4
    with ShardWriter(tmp_path, vocab_size=100_000, end_of_text_id=99_999) as writer:
        writer.add([70_000, 99_999], 5)
    assert TokenShards.open(tmp_path).document(0).tolist() == [70_000, 99_999]
    assert (tmp_path / "00000.bin").stat().st_size == 8


def test_an_empty_folder_of_shards_is_valid(make_shards):
    shards = make_shards([])
    assert (len(shards), shards.num_tokens, shards.num_bytes) == (0, 0, 0)


def test_the_same_documents_make_the_same_files(make_shards):
    one, two = make_shards([5, 2, 8], name="one"), make_shards([5, 2, 8], name="two")
    for name in ("00000.bin", DOCUMENTS, INDEX):
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2], "does not end with the end-of-text id 0"),
        ([], "does not end with"),
        ([10, 0], "token id 10, outside the vocabulary of 10"),
        ([-1, 0], "token id -1"),
    ],
)
def test_ids_that_cannot_be_stored_are_refused(tmp_path, ids, message):
    writer = ShardWriter(tmp_path, vocab_size=10, end_of_text_id=0)
    with pytest.raises(DataError, match=message):
        writer.add(ids, 1)


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="shard_tokens=0"):
        ShardWriter(tmp_path, vocab_size=10, end_of_text_id=0, shard_tokens=0)
    with pytest.raises(ConfigError, match="end_of_text_id=10 lies outside"):
        ShardWriter(tmp_path, vocab_size=10, end_of_text_id=10)


def test_a_killed_writer_leaves_nothing_that_opens(tmp_path):
    writer = ShardWriter(tmp_path, vocab_size=10, end_of_text_id=0).__enter__()
    writer.add([1, 0], 1)
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    with pytest.raises(ArtefactError, match="no finished token shards"):
        TokenShards.open(tmp_path)


def test_a_new_writer_invalidates_the_old_index_at_once(make_shards):
    shards = make_shards([3])
    ShardWriter(shards.path, vocab_size=10, end_of_text_id=0)
    with pytest.raises(ArtefactError, match="no finished token shards"):
        TokenShards.open(shards.path)


def _truncate(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 2)


def _set_total(path):
    index = json.loads(path.read_text())
    index["num_tokens"] += 1
    path.write_text(json.dumps(index))


def _set_format(path):
    path.write_text(json.dumps({"format": "other"}))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("00000.bin", _truncate, "00000.bin has 14 bytes instead of 16"),
        ("00000.bin", lambda path: path.unlink(), "00000.bin is missing"),
        (DOCUMENTS, lambda path: path.unlink(), "documents.npy is missing"),
        (DOCUMENTS, lambda path: path.write_bytes(b"nonsense"), "documents.npy cannot be read"),
        (DOCUMENTS, lambda path: np.save(path, np.zeros(3, dtype=np.int64)), r"shape \(3,\)"),
        (DOCUMENTS, lambda path: np.save(path, np.zeros((2, 2), dtype=np.int64)), "disagree about"),
        (INDEX, _set_total, "disagree about"),
        (INDEX, _set_format, "format 'other'"),
    ],
)
def test_damage_is_noticed_on_opening(make_shards, name, damage, message):
    shards = make_shards([3, 5])
    damage(shards.path / name)
    with pytest.raises(ArtefactError, match=message):
        TokenShards.open(shards.path)
