"""A model that does not fit its device computes the same from the device, the host and a disk."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

from portable.engine.config import HfEngineConfig, MaxMemoryConfig
from portable.engine.hf.engine import HfEngine, build
from portable.model.init import new_model
from portable.model.weights import save_model
from portable.parallel.runtime import Runtime
from portable.testing.engine.tiny import ask, make_model_config, make_tokenizer
from portable.testing.runtime import make_runtime


class Loaded(NamedTuple):
    """One model, loaded plainly and spread."""

    plain: HfEngine
    spread: HfEngine
    runtime: Runtime


@pytest.fixture(scope="session")
def loaded(backend_name: str, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    runtime = make_runtime(backend_name)
    path = tmp_path_factory.mktemp("deep")
    tokenizer = make_tokenizer()
    # A layer has 30 KiB, the embedding 38: the device takes that, the host two layers, a disk the rest.
    config = replace(make_model_config(tokenizer.vocab_size), num_layers=6)
    save_model(new_model(config, runtime.kernels, seed=3), config, tokenizer, path)
    spread = HfEngineConfig(
        device_map="auto",
        max_memory=MaxMemoryConfig(device="80KiB", host="110KiB"),
        offload_folder=str(path / "offload"),
    )
    return Loaded(build(path, HfEngineConfig(), runtime), build(path, spread, runtime), runtime)


def test_parts_lie_on_the_device_the_host_and_a_disk(loaded: Loaded) -> None:
    places = {str(loaded.runtime.torch_device), "cpu", "disk"}  # device and host may be one
    assert {str(place) for place in loaded.spread.model.hf_device_map.values()} == places


def test_logits_are_the_same_to_the_bit(loaded: Loaded) -> None:
    ids_NT = torch.tensor([[1, 2, 3, 4, 5], [9, 8, 7, 6, 5]], device=loaded.runtime.torch_device)
    with torch.no_grad():
        expected, found = (engine.model(ids_NT).logits for engine in (loaded.plain, loaded.spread))
    assert found.device == expected.device
    assert torch.equal(found, expected)


def test_answers_are_the_same(loaded: Loaded) -> None:
    asked = [ask([1, 2, 3], 6, seed=1), ask([7] * 9, 4, temperature=0)]
    expected, found = (engine.generate(asked) for engine in (loaded.plain, loaded.spread))
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]
    assert [answer.log_probs for answer in found] == [answer.log_probs for answer in expected]
