import torch

from portable.core.record import IGNORED
from portable.model.init import new_model
from portable.model.step import begin_step, finish_step


def test_gradient_is_that_of_the_whole_logits(make_config, kernels):
    ids = torch.randint(0, 270, (2, 9), generator=torch.Generator().manual_seed(0))
    positions, targets = torch.arange(9).expand(2, -1), ids.roll(-1, 1)
    targets[0, 3] = IGNORED
    grads = []
    for by_hand in (False, True):
        model = new_model(make_config(tie_embeddings=False), kernels, seed=3)
        if by_hand:
            logits = model.logits(model(ids, positions))
            counted = targets >= 0
            log_probs = logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
            expected = 0.01 * logits.logsumexp(-1)[counted].square().sum()
            (-log_probs[counted].sum() + expected).mul(0.5).backward()
        else:
            model.z_loss_coef = 0.01
            begin_step([model], 0.5)
            (-model(ids, positions, targets=targets).sum() * 0.5).backward()
            reported = finish_step([model], lambda counts: counts)["z_loss"]
        grads.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(reported, expected.detach(), rtol=1e-5, atol=0)
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=0, atol=1e-5 * grad.abs().max().item())


def test_the_log_probabilities_stay_what_they_are(make_config, kernels):
    model = new_model(make_config(), kernels, seed=3)
    ids, positions = torch.arange(6)[None], torch.arange(6)[None]
    plain = model(ids, positions, targets=ids)
    model.z_loss_coef = 0.1
    assert torch.equal(model(ids, positions, targets=ids), plain)
