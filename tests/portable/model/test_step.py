import torch

from portable.model.config import Gate, MoeConfig
from portable.model.init import new_model
from portable.model.step import begin_step, finish_step, max_load

MOE = {"num_experts": 6, "top_k": 2, "intermediate_size": 16, "gate": Gate.sigmoid, "num_shared_experts": 1}


def batch(rows=4, tokens=12):
    ids = torch.randint(0, 270, (rows, tokens + 1), generator=torch.Generator().manual_seed(0))
    return ids[:, :-1], torch.arange(tokens).expand(rows, -1), ids[:, 1:]


def run(model, rows, scale):
    begin_step([model], scale)
    for ids, positions, targets in zip(*(x.split(rows) for x in batch()), strict=True):
        (-model(ids, positions, targets=targets).sum() * scale).backward()


def test_a_step_is_the_same_however_its_rows_are_cut(make_config, kernels):
    moe = MoeConfig(**MOE, aux_loss_coef=0.1, bias_update_rate=0.01, router_z_loss_coef=0.01)
    results = []
    for rows in (4, 1):
        model = new_model(make_config(moe=moe), kernels, seed=1)
        run(model, rows, 1 / 48)
        sums = finish_step([model], lambda counts: counts)
        results.append((sums, {name: p.grad for name, p in model.named_parameters()}, model))
    (sums, grads, model), (other_sums, other_grads, other) = results
    assert set(sums) == {"moe_aux_loss", "router_z_loss"}
    for name, value in sums.items():
        torch.testing.assert_close(value, other_sums[name], rtol=1e-5, atol=0)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, other_grads[name], rtol=0, atol=1e-5 * grad.abs().max().item())
    for name, bias in model.named_buffers():
        assert torch.equal(bias, dict(other.named_buffers())[name])


def test_bias_follows_the_summed_load(make_config, kernels):
    model = new_model(make_config(moe=MoeConfig(**MOE, bias_update_rate=0.01)), kernels, seed=1)
    run(model, 2, 1.0)
    seen = []

    def doubled(loads_LE):
        seen.append(loads_LE)
        return 2 * loads_LE

    assert finish_step([model], doubled) == {}
    assert seen[0].shape == (2, 6)
    assert seen[0].sum(-1).tolist() == [96.0, 96.0]
    for load, block in zip(seen[0], model.blocks.values(), strict=True):
        torch.testing.assert_close(block.mlp.router.bias, 0.01 * (load.mean() - load).sign())
        assert torch.equal(block.mlp.load_E, 2 * load)
    expected = (seen[0].amax(-1) / seen[0].mean(-1)).max()
    torch.testing.assert_close(max_load([model]), expected)


def test_repeated_steps_even_out_the_load(make_config, kernels):
    moe = MoeConfig(**MOE, bias_update_rate=0.02)
    model = new_model(make_config(moe=moe, init_std=0.5), kernels, seed=1)
    loads = []
    for _ in range(40):
        run(model, 4, 1.0)
        finish_step([model], lambda counts: counts)
        loads.append(max_load([model]).item())
    assert loads[0] > 1.4
    assert loads[-1] < 1.2


def test_a_dense_model_needs_no_collective(make_config, kernels):
    model = new_model(make_config(), kernels, seed=1)
    run(model, 4, 1.0)
    assert finish_step([model], lambda counts: 1 / 0) == {}
    assert max_load([model]) is None
