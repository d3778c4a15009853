"""Every kind of head: values and gradients as with all logits kept, and a fraction of the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from portable.core.record import IGNORED
from portable.kernel.reference import log_prob
from portable.model.config import ModelConfig, MtpConfig
from portable.model.head import HeadedModel
from portable.model.hf.folder import load_hf
from portable.model.init import new_model
from portable.model.step import begin_step, finish_step
from portable.testing.process import run_processes
from portable.testing.runtime import make_runtime
from tests.portable.model.case_head import LAYOUTS
from tests.portable.model.heads import with_all_logits
from tests.portable.model.hf.folders import make_folder

SHAPE: dict[str, Any] = {
    "vocab_size": 37,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "max_seq_len": 64,
}
OWN = {
    "tied": ModelConfig(**SHAPE),
    "untied": ModelConfig(**SHAPE, tie_embeddings=False),
    "mtp": ModelConfig(**SHAPE, tie_embeddings=False, mtp=MtpConfig(num_layers=2, loss_coef=0.3)),
    "mtp, tied": ModelConfig(**SHAPE, mtp=MtpConfig(num_layers=1, loss_coef=0.3)),
}
FOREIGN = {"hf": "llama", "hf, tied": "qwen3"}


def _model(kind: str, folder: Path) -> HeadedModel:
    kernels = make_runtime().kernels
    if kind in OWN:
        return new_model(OWN[kind], kernels, seed=3)
    return load_hf(make_folder(FOREIGN[kind], folder), kernels)


def _train(model: HeadedModel, temperature: float) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Return log-probabilities, what auxiliary losses report, and all gradients of one step."""
    ids = torch.randint(0, 37, (3, 9), generator=torch.Generator().manual_seed(0))
    targets = ids.roll(-1, 1)
    targets[0, 3] = targets[2, 5:] = IGNORED
    weights = torch.linspace(-1.0, 2.0, 27).view(3, 9)  # as an advantage or a preference would weigh tokens
    begin_step([model], 0.5)
    found = model(ids, torch.arange(9).expand(3, -1), targets=targets, temperature=temperature)
    (found * weights).sum().mul(0.5).backward()
    reported = finish_step([model], lambda counts: counts)
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found.detach(), reported, grads


@pytest.mark.parametrize(("z_loss", "temperature"), [(0.0, 1.0), (0.01, 1.0), (0.0, 0.7)])
@pytest.mark.parametrize("kind", [*OWN, *FOREIGN])
def test_a_chunked_head_computes_what_all_logits_do(
    kind: str, z_loss: float, temperature: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(log_prob, "CHUNK_ROWS", 5)
    results = []
    for kernel in (log_prob.token_log_probs, with_all_logits):
        model = _model(kind, tmp_path)
        model.z_loss_coef = z_loss
        model.log_probs = kernel
        results.append(_train(model, temperature))
    (found, reported, grads), (expected, expected_reported, expected_grads) = results
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    assert reported.keys() == expected_reported.keys() >= ({"z_loss"} if z_loss else set())
    for name, value in expected_reported.items():
        torch.testing.assert_close(reported[name], value, rtol=1e-5, atol=0)
    assert grads.keys() == expected_grads.keys()
    for name, grad in expected_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=0, atol=1e-5 * max(float(grad.abs().max()), 1e-3))


@pytest.fixture(scope="module")
def rises(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    folder = tmp_path_factory.mktemp("rises")
    return run_processes("tests.portable.model.case_head:rises", 2, folder)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["tied", "untied", "mtp"])
def test_a_chunked_head_keeps_no_logits(rises: list[dict[str, float]], kind: str, layout: str):
    for report in rises:
        assert report[f"{kind}, {layout}"] < report[f"{kind}, all logits"] / 3
