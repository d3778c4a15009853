import pytest
import torch

from portable.train.next_token import next_token_loss
from tests.portable.train.support import TinyModel, rows_to_batch


def test_the_loss_is_the_weighted_sum_of_nats():
    model, batch = TinyModel(), rows_to_batch([2, 5])
    log_probs = model(batch.input_ids_BT, batch.position_ids_BT, targets=batch.target_ids_BT)
    learnt = [
        -float(log_probs[row, t].detach())
        for row in range(2)
        for t in range(6)
        if batch.loss_weight_BT[row, t] > 0
    ]
    assert len(learnt) == batch.num_terms == 3 + 6
    assert float(next_token_loss(model, batch).loss.detach()) == pytest.approx(sum(learnt), rel=1e-6)


def test_targets_of_weight_zero_do_not_move_the_model():
    model, batch = TinyModel(), rows_to_batch([0])
    gradient = torch.autograd.grad(next_token_loss(model, batch).loss, model.head.weight)[0]
    batch.target_ids_BT[0, 1:] = 3  # only position 0 is learnt in row 0
    again = torch.autograd.grad(next_token_loss(model, batch).loss, model.head.weight)[0]
    assert torch.equal(gradient, again)
