"""One tiny model for all tests of this folder, in memory and as a folder on disk."""

from pathlib import Path

import pytest

from portable.engine.config import NativeEngineConfig
from portable.engine.native.engine import NativeEngine
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
def engine(tokenizer: Tokenizer, runtime: Runtime) -> NativeEngine:
    model = new_model(make_model_config(tokenizer.vocab_size), runtime.kernels, seed=3)
    return NativeEngine(model, tokenizer, NativeEngineConfig(max_batch_size=4), runtime)


@pytest.fixture(scope="session")
def model_dir(engine: NativeEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    save_model(engine.model, engine.model.config, engine.tokenizer, path)
    return path
