"""The tiny model of the engine tests, as a folder."""

from pathlib import Path

import pytest

from portable.model.init import new_model
from portable.model.tokenizer import Tokenizer
from portable.model.weights import save_model
from portable.parallel.runtime import Runtime
from tests.portable.engine.support import make_model_config, make_runtime, make_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return make_runtime()


@pytest.fixture(scope="session")
def model_dir(tokenizer: Tokenizer, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    config = make_model_config(tokenizer.vocab_size)
    save_model(new_model(config, runtime.kernels, seed=3), config, tokenizer, path)
    return path
