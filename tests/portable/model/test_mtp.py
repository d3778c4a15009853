import torch

from portable.core.record import IGNORED
from portable.model.config import Gate, MoeConfig, MtpConfig
from portable.model.init import new_model
from portable.model.mtp import shift_targets
from portable.model.step import begin_step, finish_step


def test_targets_shift_inside_their_segments():
    targets = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert shift_targets(targets, None).tolist() == [[2, 3, 4, IGNORED], [6, 7, 8, IGNORED]]
    bounds = torch.tensor([0, 3, 4, 8], dtype=torch.int32)
    assert shift_targets(targets, bounds).tolist() == [[2, 3, IGNORED, IGNORED], [6, 7, 8, IGNORED]]
    assert targets.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


def setup(make_config, kernels, num_layers=2):
    config = make_config(mtp=MtpConfig(num_layers=num_layers, loss_coef=0.6))
    ids = torch.randint(0, 270, (2, 9), generator=torch.Generator().manual_seed(0))
    return new_model(config, kernels, seed=3), ids[:, :-1], torch.arange(8).expand(2, -1), ids[:, 1:]


def test_depths_predict_further_tokens_from_embedding_and_head_of_the_model(make_config, kernels):
    model, ids, positions, targets = setup(make_config, kernels)
    begin_step([model], 0.5)
    (-model(ids, positions, targets=targets).sum() * 0.5).backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    reported = finish_step([model], lambda counts: counts)["mtp_loss"]

    model.zero_grad()
    hidden = model(ids, positions)
    loss = -model.token_log_probs(hidden, targets).sum()
    rotary = model._rotary(positions)
    further = 0.0
    for depth, module in enumerate(model.mtp.values()):
        # Ends are read, but what is predicted from there is not counted.
        known = torch.cat((targets[:, depth:], torch.zeros(2, depth, dtype=torch.int64)), 1)
        hidden = module(hidden, model.embed(known), rotary, None)
        kept = 8 - depth - 1
        further = further - model.token_log_probs(hidden[:, :kept], targets[:, depth + 1 :]).sum()
    torch.testing.assert_close(reported, 0.3 * further.detach(), rtol=1e-5, atol=0)
    ((loss + 0.3 * further) * 0.5).backward()
    for name, parameter in model.named_parameters():
        bar = 1e-5 * parameter.grad.abs().max().item()
        torch.testing.assert_close(grads[name], parameter.grad, rtol=0, atol=bar, msg=name)
        assert bar > 0, name


def test_evaluation_does_not_run_them(make_config, kernels):
    model, ids, positions, targets = setup(make_config, kernels)
    learning = model(ids, positions, targets=targets)
    model.eval()
    for depth in model.mtp.values():
        depth.forward = None
    assert torch.equal(model(ids, positions, targets=targets), learning)


def test_later_tokens_do_not_leak_into_a_depth(make_config, kernels):
    model, ids, positions, targets = setup(make_config, kernels, num_layers=1)
    hidden = model(ids, positions)
    rotary = model._rotary(positions)
    outs = []
    for last in (3, 4):
        known = targets.clone()
        known[:, 5:] = last  # read at positions 5 and later
        outs.append(model.mtp["0"](hidden, model.embed(known), rotary, None))
    assert torch.equal(outs[0][:, :5], outs[1][:, :5])
    assert not torch.equal(outs[0][:, 5], outs[1][:, 5])


def test_the_projection_reads_the_embedding_first(make_config, kernels):
    model, ids, positions, targets = setup(make_config, kernels, num_layers=1)
    hidden, depth = model(ids, positions), model.mtp["0"]
    with torch.no_grad():
        depth.projection.weight[:, :32] = 0  # the released weights' order: embedding, then hidden states
    rotary = model._rotary(positions)
    outs = [depth(hidden, model.embed(tokens), rotary, None) for tokens in (targets, targets.flip(1))]
    assert torch.equal(*outs)
    assert outs[0].abs().sum() > 0


def test_a_depth_has_experts_and_counts_them_apart(make_config, kernels):
    moe = MoeConfig(num_experts=4, top_k=2, intermediate_size=8, first_dense_layers=1, gate=Gate.sigmoid)
    model = new_model(make_config(moe=moe, mtp=MtpConfig()), kernels, seed=3)
    ids = torch.arange(8)[None]
    model(ids, ids, targets=ids).sum().backward()
    loads = []
    finish_step([model], lambda counts: loads.append(counts) or counts)
    assert loads[0].sum(-1).tolist() == [16.0, 16.0]  # block 1, and the depth's
