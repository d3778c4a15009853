"""The records that packages exchange."""

import json

import pytest
import torch

from portable.core.record import Batch, Conversation, Document, Message


def make_batch() -> Batch:
    """Return two rows of three tokens, of which four count."""
    ids_BT = torch.arange(6).reshape(2, 3)
    weight_BT = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.5, 1.5]])
    return Batch(ids_BT, ids_BT + 1, weight_BT, torch.arange(3).expand(2, 3))


def test_conversation_round_trip_through_a_line_of_json():
    turns = (Message("user", "1+1="), Message("assistant", "02"))
    conversation = Conversation(turns, "c1", {"source": "é"})
    assert Conversation.from_json(json.loads(json.dumps(conversation.to_json()))) == conversation


@pytest.mark.parametrize("metadata", [{}, {"metadata": None}])
def test_conversation_without_provenance_is_read(metadata: dict[str, None]):
    line = {"id": 7, "messages": [{"role": "user", "content": "hi"}], **metadata}
    assert Conversation.from_json(line) == Conversation((Message("user", "hi"),), "7", {})


def test_records_do_not_share_their_metadata():
    first, second = Document("a", "1"), Document("b", "2")
    first.metadata["x"] = 1
    assert second.metadata == {}


def test_records_are_constant():
    with pytest.raises(AttributeError):
        Document("a", "1").text = "b"  # pyright: ignore[reportAttributeAccessIssue]  # it is what we test


def test_batch_counts_terms_by_weight_and_tokens_by_place():
    batch = make_batch()
    assert batch.num_terms == 4.0
    assert batch.num_tokens == 6


def test_batch_moves_all_its_tensors_and_keeps_the_rest():
    batch = make_batch()
    moved = batch.to(torch.device("meta"))
    assert moved.input_ids_BT.device.type == moved.position_ids_BT.device.type == "meta"
    assert moved.cu_seqlens is None
    assert batch.input_ids_BT.device.type == "cpu"

    batch.cu_seqlens = torch.tensor([0, 3, 6], dtype=torch.int32)
    again = batch.to(torch.device("meta")).cu_seqlens
    assert again is not None
    assert again.device.type == "meta"
