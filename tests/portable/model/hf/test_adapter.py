from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from portable.kernel.entry import REFERENCE_ENTRIES
from portable.kernel.registry import KernelSet
from portable.model.hf.folder import load_hf
from tests.portable.model.hf.folders import KINDS, make_folder

KERNELS = KernelSet("any", "fp32", entries=REFERENCE_ENTRIES)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_log_probs_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(make_folder(kind, tmp_path), dtype=torch.float32).eval()
    ours = load_hf(tmp_path, KERNELS).eval()
    ids = torch.randint(37, (2, 16), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(16).expand(2, -1)
    with torch.no_grad():
        expected = theirs(ids).logits
        found = ours.logits(ours(ids, positions))
        log_probs = ours(ids, positions, targets=ids, temperature=2.0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    wanted = (expected / 2.0).log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_probs, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "mixtral", "gpt2"])
def test_documents_of_a_row_do_not_see_each_other(kind: str, tmp_path: Path) -> None:
    model = load_hf(make_folder(kind, tmp_path), KERNELS).eval()
    ids = torch.randint(37, (1, 12), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(5), torch.arange(7)]).unsqueeze(0)
    with torch.no_grad():
        packed = model(ids, positions, torch.tensor([0, 5, 12], dtype=torch.int32))
        alone = model(ids[:, 5:], positions[:, 5:])
    torch.testing.assert_close(packed[:, 5:], alone, atol=1e-5, rtol=1e-5)
