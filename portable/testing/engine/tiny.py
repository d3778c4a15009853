"""A tiny model, its tokenizer, requests, and an oracle of what the model says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HfTokenizer

from portable.engine.request import Request, SamplingConfig
from portable.model.chat import CHAT_TEMPLATE, END_OF_TEXT, END_OF_TURN, PAD, SPECIAL_TOKENS
from portable.model.config import ModelConfig
from portable.model.decoder import Decoder
from portable.model.tokenizer import Tokenizer

TEXT = "the quick brown fox jumps over the lazy dog, and the dog barks at the fox: über naïve 日本 1 + 2 = 3"


def make_tokenizer() -> Tokenizer:
    inner = HfTokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator([TEXT] * 4, trainer)
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TURN,
        "pad_token": PAD,
        "end_of_text_token": END_OF_TEXT,
        "chat_template": CHAT_TEMPLATE,
    }
    return Tokenizer(inner, config)


def make_model_config(vocab_size: int) -> ModelConfig:
    # A large init makes distributions uneven, so that a wrong token or log-prob cannot hide.
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        max_seq_len=64,
        init_std=0.3,
    )


def ask(prompt: Sequence[int], max_new_tokens: int = 6, **settings: Any) -> Request:
    """A request; settings that are none of SamplingConfig's are the request's own."""
    names = ("temperature", "top_k", "top_p", "seed")
    sampling = {name: settings.pop(name) for name in names if name in settings}
    return Request(
        prompt_ids=tuple(prompt),
        sampling=SamplingConfig(max_new_tokens=max_new_tokens, **sampling),
        **settings,
    )


def plain_log_probs(
    model: Decoder, prompt: Sequence[int], completion: Sequence[int], temperature: float = 1.0
) -> list[float]:
    """What one forward pass over the whole sequence says of the completion's tokens: the oracle."""
    device = model.head_weight_VD.device
    ids = torch.tensor([[*prompt, *completion]], device=device)
    with torch.no_grad():
        hidden = model(ids[:, :-1], torch.arange(ids.shape[1] - 1, device=device)[None])
        log_probs = (model.logits(hidden)[0].float() / temperature).log_softmax(-1)
    return log_probs[len(prompt) - 1 :].gather(1, ids[0, len(prompt) :, None])[:, 0].tolist()
