"""How a single token is shown to people and clients: its text, and its bytes where it is no whole text."""

from portable.model.tokenizer import Tokenizer


def token_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """Return the bytes that a token stands for, also where they are only part of a character."""
    text = tokenizer.decode([token_id], skip_special=False)
    if "\ufffd" not in text:
        return text.encode()
    piece = tokenizer.inner.id_to_token(token_id) or ""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])  # the byte tokens of sentencepiece vocabularies
    if piece and all(char in _BYTE_OF_CHAR for char in piece):
        return bytes(_BYTE_OF_CHAR[char] for char in piece)
    return text.encode()


def token_label(tokenizer: Tokenizer, token_id: int) -> str:
    """Return a token's text, or its bytes (``bytes:\\xe2\\x82``) where they are none: labels must differ."""
    raw = token_bytes(tokenizer, token_id)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _byte_alphabet() -> dict[str, int]:
    """Return the byte behind each letter of a byte-level vocabulary.

    Printable bytes of Latin-1 stand for themselves; the others, in order, for the letters from U+0100 on.
    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet


_BYTE_OF_CHAR = _byte_alphabet()
