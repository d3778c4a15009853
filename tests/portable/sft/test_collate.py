"""The law of packing: what a conversation costs and teaches does not depend on what shares its row."""

import pytest
import torch
from torch import Tensor

from portable.core.record import Batch, Conversation
from portable.model.decoder import Decoder
from portable.model.tokenizer import Tokenizer
from portable.sft.collate import Collator, to_rows
from portable.sft.mask import Example, to_example
from portable.train.next_token import next_token_loss


@pytest.fixture
def examples(tokenizer: Tokenizer, conversations: list[Conversation]) -> list[Example]:
    return [to_example(tokenizer, conversation) for conversation in conversations[:6]]


def loss_and_gradients(model: Decoder, batches: list[Batch]) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    total = torch.stack([next_token_loss(model, batch).loss for batch in batches]).sum()
    total.backward()
    return float(total.detach()), {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def test_packed_loss_and_gradients_equal_those_of_separate_conversations(
    model: Decoder, tokenizer: Tokenizer, examples: list[Example]
):
    collate = Collator(tokenizer.pad_token_id, 100)
    packed = collate(to_rows(examples, 100, packing=True))
    assert len(packed.input_ids_BT) < len(examples)
    alone = [Collator(tokenizer.pad_token_id)([(example,)]) for example in examples]
    assert all(batch.cu_seqlens is not None and len(batch.cu_seqlens) == 2 for batch in alone)
    loss, gradients = loss_and_gradients(model, [packed])
    wanted, wanted_gradients = loss_and_gradients(model, alone)
    assert loss == pytest.approx(wanted, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted_gradients[name], rtol=1e-4, atol=1e-6, msg=name)


def test_naive_packing_would_not_pass(model: Decoder, tokenizer: Tokenizer, examples: list[Example]):
    """Control: without the boundaries the loss is another, so the test above can fail."""
    packed = Collator(tokenizer.pad_token_id, 100)(to_rows(examples, 100, packing=True))
    right = float(next_token_loss(model, packed).loss.detach())
    packed.cu_seqlens = None
    assert float(next_token_loss(model, packed).loss.detach()) != pytest.approx(right, rel=1e-4)


def test_changing_one_conversation_does_not_move_its_neighbour(
    model: Decoder, tokenizer: Tokenizer, examples: list[Example]
):
    first, second = examples[:2]
    changed = Example(tuple((index + 7) % 256 for index in first.input_ids), first.target_ids, first.learnt)
    collate = Collator(tokenizer.pad_token_id, 64)
    stop = len(first)
    before, after = (hidden(model, collate([(item, second)])) for item in (first, changed))
    assert not torch.equal(before[:, :stop], after[:, :stop])
    assert torch.equal(before[:, stop:], after[:, stop:])


def hidden(model: Decoder, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model(batch.input_ids_BT, batch.position_ids_BT, batch.cu_seqlens)


def test_segments_positions_and_weights(tokenizer: Tokenizer):
    rows = [
        (Example((5, 6), (6, 7), (False, True)), Example((8,), (9,), (True,))),
        (Example((1, 2, 3), (2, 3, 4), (True,) * 3),),
    ]
    batch = Collator(0, 4)(rows)
    assert batch.input_ids_BT.tolist() == [[5, 6, 8, 0], [1, 2, 3, 0]]
    assert batch.target_ids_BT.tolist() == [[6, 7, 9, 0], [2, 3, 4, 0]]
    assert batch.loss_weight_BT.tolist() == [[0, 1, 1, 0], [1, 1, 1, 0]]
    assert batch.position_ids_BT.tolist() == [[0, 1, 0, 0], [0, 1, 2, 0]]
    assert batch.cu_seqlens is not None
    assert batch.cu_seqlens.tolist() == [0, 2, 3, 4, 7, 8]
    assert batch.num_terms == 5


def test_without_a_width_the_longest_row_decides():
    rows = [(Example((1, 2, 3), (2, 3, 4), (True,) * 3),), (Example((5,), (6,), (True,)),)]
    batch = Collator(0)(rows)
    assert batch.input_ids_BT.tolist() == [[1, 2, 3], [5, 0, 0]]
    assert batch.cu_seqlens is not None
    assert batch.cu_seqlens.tolist() == [0, 3, 4, 6]


def test_without_packing_each_conversation_has_its_row(examples: list[Example]):
    assert to_rows(examples, 100, packing=False) == [(example,) for example in examples]
