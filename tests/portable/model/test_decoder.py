import copy

import pytest
import torch

from portable.core.errors import ShapeError
from portable.kernel.reference.attention import attention
from portable.model.init import new_model


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request, make_config, kernels):
    return new_model(make_config(tie_embeddings=request.param), kernels, seed=3)


def batch(rows=2, tokens=9):
    ids = torch.randint(0, 270, (rows, tokens + 1), generator=torch.Generator().manual_seed(0))
    return ids[:, :-1], torch.arange(tokens).expand(rows, -1), ids[:, 1:]


class GrowingCache:
    """The simplest cache: rows of one length, everything kept."""

    def __init__(self, num_layers):
        self.kept = [None] * num_layers
        self.layers_seen = []

    def attend(self, layer, q, k, v):
        self.layers_seen.append(layer)
        if self.kept[layer] is not None:
            k, v = (torch.cat(pair, 1) for pair in zip(self.kept[layer], (k, v), strict=True))
        self.kept[layer] = (k, v)
        padding = k.shape[1] - q.shape[1]
        q = torch.cat((q.new_zeros(q.shape[0], padding, *q.shape[2:]), q), 1)
        return attention(q, k, v)[:, padding:]


def test_targets_turn_hidden_states_into_log_probs(model):
    ids, positions, targets = batch()
    hidden = model(ids, positions)
    assert hidden.shape == (2, 9, 32)
    for temperature in (1.0, 0.7):
        expected = (model.logits(hidden) / temperature).log_softmax(-1).gather(-1, targets.unsqueeze(-1))
        ours = model(ids, positions, None, targets, temperature)
        torch.testing.assert_close(ours, expected.squeeze(-1), rtol=1e-5, atol=1e-5)


def test_head_is_the_embedding_only_when_tied(model):
    tied = model.config.tie_embeddings
    assert (model.head_weight_VD is model.embed.weight) == tied
    assert ("head.weight" in model.state_dict()) == (not tied)


def test_every_parameter_gets_a_gradient(model):
    ids, positions, targets = batch()
    model(ids, positions, targets=targets).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_token_by_token_with_a_cache_equals_one_pass(model):
    ids, positions, _ = batch()
    with torch.no_grad():
        whole = model(ids, positions)
        cache = GrowingCache(model.config.num_layers)
        steps = [model(ids[:, t : t + 1], positions[:, t : t + 1], cache=cache) for t in range(9)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-5, atol=1e-5)
    assert cache.layers_seen == [0, 1] * 9


def test_shapes_that_do_not_match_are_refused(model):
    ids, positions, targets = batch()
    with pytest.raises(ShapeError, match="position_ids"):
        model(ids, positions[:, :-1])
    with pytest.raises(ShapeError, match="targets"):
        model(ids, positions, targets=targets[:, :-1])


def test_bfloat16_weights_leave_angles_in_float32(model):
    ids, positions, targets = batch()
    with torch.no_grad():
        full = model(ids, positions, targets=targets)
        half = model.to(torch.bfloat16)(ids, positions, targets=targets)
    assert half.dtype == torch.float32
    assert (half - full).abs().mean() < 0.1
    cos, _ = model._rotary(positions)
    assert cos.dtype == torch.float32


def test_autocast_computes_in_16_bits_and_learns_in_32(model):
    ids, positions, targets = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_probs = model(ids, positions, targets=targets)
    assert log_probs.dtype == torch.float32
    log_probs.sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        assert 0 < (log_probs - model(ids, positions, targets=targets)).abs().mean() < 0.1


def test_lora_finds_the_linear_layers(model):
    from peft import LoraConfig, get_peft_model

    ids, positions, targets = batch()
    names = ["q", "k", "v", "o", "gate", "up", "down"]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=names, init_lora_weights=False))
    adapted(ids, positions, targets=targets).sum().backward()
    trained = {name for name, p in adapted.named_parameters() if p.grad is not None}
    assert len(trained) == 2 * len(names) * model.config.num_layers


def stages_of(model):
    """Cut a copy of the model in two, as a pipeline does: from outside, by the flags and by deletion."""
    front, back = copy.deepcopy(model), copy.deepcopy(model)
    front.last = False
    front.head = None  # the norm stays, unused: the flag decides
    del front.blocks["1"]
    back.first = False
    del back.blocks["0"]
    if not model.config.tie_embeddings:
        back.embed = None
    return front, back


def test_stages_together_are_the_model(model):
    ids, positions, targets = batch()
    whole = model(ids, positions, targets=targets)
    whole.sum().backward()
    front, back = stages_of(model)
    hidden = front(ids, positions)
    halves = back(hidden, positions, targets=targets)
    halves.sum().backward()
    assert torch.equal(halves, whole)
    parts = {name: p for stage in (front, back) for name, p in stage.named_parameters() if p.grad is not None}
    assert set(parts) == set(dict(model.named_parameters()))
    for name, parameter in model.named_parameters():
        grad = parts[name].grad
        if name == "embed.weight" and model.config.tie_embeddings:
            grad = front.embed.weight.grad + back.embed.weight.grad
        torch.testing.assert_close(grad, parameter.grad, rtol=1e-6, atol=1e-6, msg=name)


def test_a_stage_without_a_head_says_so(model):
    front, _ = stages_of(model)
    front.embed = None
    with pytest.raises(ShapeError, match="no head"):
        front.logits(torch.zeros(1, 32))


def test_what_is_called_between_projections_and_for_the_head_can_be_replaced(model):
    ids, positions, targets = batch()
    expected = model(ids, positions, targets=targets)
    calls = []
    for name, block in model.blocks.items():
        core = block.attention.core

        class Spy(torch.nn.Module):
            def forward(self, q, k, v, cu_seqlens, core=core, name=name):
                calls.append((name, q.shape, k.shape, v.shape, cu_seqlens))
                return core(q, k, v, cu_seqlens)

        block.attention.core = Spy()
    log_probs = model.log_probs

    def head(hidden, weight, targets, temperature):
        calls.append((hidden.shape, weight is model.head_weight_VD, targets.shape, temperature))
        return log_probs(hidden, weight, targets, temperature=temperature)

    model.log_probs = head
    assert torch.equal(model(ids, positions, targets=targets), expected)
    shapes = (2, 9, 4, 16), (2, 9, 2, 16), (2, 9, 2, 16), None
    assert calls == [("0", *shapes), ("1", *shapes), ((18, 32), True, (18,), 1.0)]
