"""A byte-level BPE learnt from the corpus, in the files that ``transformers`` reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HfTokenizer

from portable.core.errors import ConfigError, DataError
from portable.data.config import TokenizerConfig
from portable.model.chat import CHAT_TEMPLATE, END_OF_TEXT, END_OF_TURN, PAD, SPECIAL_TOKENS
from portable.model.tokenizer import Tokenizer

# Merges never reach across these pieces; one alternative a line, in the manner of GPT-4 and Qwen.
# Digits stand alone, so a number is always the same sequence and sums can be learnt.
SPLIT_PATTERN = "|".join((
    r"'(?i:[sdmt]|ll|ve|re)",  # the ends of contractions
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",  # a word, with the space or sign before it
    r"\p{N}",  # one digit
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # signs, with the space before and the line ends after
    r"\s*[\r\n]+",  # line ends with the blanks before
    r"\s+(?!\S)",  # blanks, but the last one before a word belongs to the word
    r"\s+",
))  # fmt: skip
NUM_BYTES = 256


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Learn the merges from ``texts``. The same texts in any order, on any number of threads, give the same
    tokenizer.

    Raises: ConfigError if the vocabulary is too small for bytes and special tokens, or larger than the texts
    allow.
    """
    fewest = NUM_BYTES + len(SPECIAL_TOKENS) + 1
    if config.vocab_size < fewest:
        raise ConfigError(
            f"data.tokenizer.vocab_size={config.vocab_size} leaves no room for merges beside {NUM_BYTES} "
            f"bytes and {len(SPECIAL_TOKENS)} special tokens; use at least {fewest}"
        )
    inner = HfTokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    counted = _Counted(texts)
    inner.train_from_iterator(_batches(counted), trainer)
    allowed = inner.get_vocab_size(with_added_tokens=True)
    if counted.num_texts == 0:
        raise DataError("there is no text to learn a tokenizer from; give the data stage more documents")
    if allowed < config.vocab_size:
        raise ConfigError(
            f"data.tokenizer.vocab_size={config.vocab_size} is more than the data allows: "
            f"{counted.num_texts} training documents hold only enough repeated pairs for {allowed} tokens; "
            f"set data.tokenizer.vocab_size={allowed} or less, or give more text"
        )
    return Tokenizer(inner, tokenizer_settings(config))


def tokenizer_settings(config: TokenizerConfig) -> dict[str, object]:
    """Return what ``tokenizer_config.json`` holds."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TURN,
        "pad_token": PAD,
        "end_of_text_token": END_OF_TEXT,
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": config.model_max_length,
        "clean_up_tokenization_spaces": False,
    }


class _Counted:
    """Counts the texts that pass by."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.num_texts = 0
        self._texts = texts

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.num_texts += 1
            yield text


def _batches(texts: Iterable[str], size: int = 256) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, size)):
        yield batch
