"""A byte-level tokenizer with our special tokens, and decoders small enough to compare number by number."""

from collections.abc import Callable

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

from portable.kernel.registry import KernelSet
from portable.model.chat import CHAT_TEMPLATE, SPECIAL_TOKENS
from portable.model.config import ModelConfig
from portable.model.tokenizer import Tokenizer


@pytest.fixture
def tokenizer() -> Tokenizer:
    """256 bytes and our six special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = HfTokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "end_of_text_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": 64,
    }
    return Tokenizer(inner, settings)


@pytest.fixture(scope="session")
def kernels() -> KernelSet:
    """The kernels that a CPU run takes."""
    return KernelSet("cpu", "fp32")


@pytest.fixture
def make_config() -> Callable[..., ModelConfig]:
    """Return a maker of tiny shapes whose weights are large enough to tell formulas apart."""

    def make(**changes) -> ModelConfig:
        shape = {
            "vocab_size": 270,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 16,
            "max_seq_len": 64,
            "init_std": 0.2,
        }
        return ModelConfig(**(shape | changes))

    return make
