"""Text to token ids and back, in the files that the Hugging Face ecosystem shares.

A tokenizer folder holds ``tokenizer.json`` (the ``tokenizers`` library's own format) and
``tokenizer_config.json`` (special tokens and the chat template), so ``transformers`` reads what we write and
we read what it wrote.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from portable.core.errors import ArtefactError
from portable.core.storage import explain_os_errors, read_json, write_json, write_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HfTokenizer

# How specials are read is a switch on the tokenizer itself, and a server encodes from several threads.
_SPECIAL_MODE = threading.Lock()
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


class Tokenizer:
    """A trained tokenizer with its special tokens and chat template."""

    def __init__(self, inner: HfTokenizer, settings: dict[str, Any]) -> None:  # Any: any JSON
        self.inner = inner
        self.settings = settings
        added = inner.get_added_tokens_decoder()
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        self.special_tokens = tuple(token.content for token in added.values() if token.special)
        self.vocab_size = inner.get_vocab_size(with_added_tokens=True)
        self.eos_token_id = self._id_of("eos_token")
        self.pad_token_id = self._id_of("pad_token", default=self.eos_token_id)
        self.end_of_text_id = self._id_of("end_of_text_token", default=self.eos_token_id)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a tokenizer folder (or a model folder, which holds one). Raises: ArtefactError if it holds
        none."""
        from tokenizers import Tokenizer as HfTokenizer

        for name in TOKENIZER_FILES:
            if not (path / name).is_file():
                raise ArtefactError(
                    f"{path} holds no {name}; name a folder that a data, pretrain or export stage wrote"
                )
        config = read_json(path / "tokenizer_config.json")
        template = path / "chat_template.jinja"
        if template.is_file():
            config["chat_template"] = template.read_text(encoding="utf-8")
        return cls(HfTokenizer.from_file(str(path / "tokenizer.json")), config)

    def save(self, path: Path) -> None:
        """Write the folder's two files."""
        with explain_os_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        write_text(path / "tokenizer.json", self.inner.to_str(pretty=False))
        write_json(path / "tokenizer_config.json", self.settings)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of conversations, if the tokenizer has one."""
        return self.settings.get("chat_template")

    @property
    def bos_token_id(self) -> int | None:
        """The id that some models want before every text, if the tokenizer has one."""
        token = self.settings.get("bos_token")
        content = token["content"] if isinstance(token, dict) else token
        return self.inner.token_to_id(content) if content else None

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end a completion: the end of a turn and the end of a document."""
        return tuple(sorted({self.eos_token_id, self.end_of_text_id}))

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Return token ids. Spellings of special tokens in ``text`` stay plain text unless
        ``allow_special``."""
        with _SPECIAL_MODE:
            self.inner.encode_special_tokens = not allow_special
            return self.inner.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many plain texts in parallel."""
        with _SPECIAL_MODE:
            self.inner.encode_special_tokens = True
            encodings = self.inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of ``ids``; bytes that are no UTF-8 become the replacement character."""
        return self.inner.decode(list(ids), skip_special_tokens=skip_special)

    def token_id(self, token: str) -> int | None:
        """Return the id of a whole token, or None."""
        return self.inner.token_to_id(token)

    def _id_of(self, key: str, default: int | None = None) -> int:
        token = self.settings.get(key)
        content = token["content"] if isinstance(token, dict) else token
        index = self.inner.token_to_id(content) if content else None
        if index is not None:
            return index
        if default is not None:
            return default
        raise ArtefactError(
            f"the tokenizer has no {key}: tokenizer_config.json says {json.dumps(token)}, which is not in "
            "its vocabulary; name a token that is"
        )
