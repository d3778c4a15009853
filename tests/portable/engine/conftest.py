"""A tiny model with a byte-level tokenizer, in memory and as a folder, and what it runs on."""

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer as HfTokenizer, decoders, models, pre_tokenizers, trainers

from backends.cpu.device import CpuDevice
from portable.collective.local import LocalGroup
from portable.engine.config import NativeEngineConfig
from portable.engine.native.engine import NativeEngine
from portable.hardware.spec import HardwareConfig
from portable.kernel.registry import KernelSet
from portable.model.chat import CHAT_TEMPLATE, END_OF_TEXT, END_OF_TURN, PAD, SPECIAL_TOKENS
from portable.model.config import ModelConfig
from portable.model.init import new_model
from portable.model.tokenizer import Tokenizer
from portable.model.weights import save_model
from portable.parallel.config import PrecisionConfig, SingleConfig
from portable.parallel.runtime import Runtime
from portable.parallel.strategies.single import SingleStrategy

TEXT = ["the quick brown fox jumps over the lazy dog, and the dog barks at the fox: über naïve 日本 1 + 2 = 3"]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    inner = HfTokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(TEXT * 4, trainer)
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TURN,
        "pad_token": PAD,
        "end_of_text_token": END_OF_TEXT,
        "chat_template": CHAT_TEMPLATE,
    }
    return Tokenizer(inner, config)


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    device, group, precision = CpuDevice(), LocalGroup(), PrecisionConfig()
    strategy = SingleStrategy(SingleConfig(), precision, group, device)
    kernels = KernelSet("cpu", "fp32")
    return Runtime(device, group, strategy, kernels, precision, HardwareConfig(name="cpu", backend="cpu"))


@pytest.fixture(scope="session")
def model_config(tokenizer: Tokenizer) -> ModelConfig:
    # A large init makes distributions uneven, so that a wrong token or log-prob cannot hide.
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        max_seq_len=64,
        init_std=0.3,
    )


@pytest.fixture(scope="session")
def engine(model_config: ModelConfig, tokenizer: Tokenizer, runtime: Runtime) -> NativeEngine:
    model = new_model(model_config, runtime.kernels, seed=3)
    return NativeEngine(model, tokenizer, NativeEngineConfig(max_batch_size=4), runtime)


@pytest.fixture(scope="session")
def model_dir(engine: NativeEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_model(engine.model, engine.model.config, engine.tokenizer, path)
    return path
