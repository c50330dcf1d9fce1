"""What the tests of generation share: tiny random models, and a tokenizer of bytes."""

from collections.abc import Callable, Iterable
from functools import partial

import pytest

from primegpt.model.gpt import GPT


class ByteTokenizer:
    """One id a byte, then end of text, padding, unknown and beginning of text; the parts of a tokenizer used here."""

    eot_id = 256
    vocab_size = 260
    opening_id = None

    def __init__(self) -> None:
        self.special_tokens = {"<EOT>": 256, "<PAD>": 257, "<UNK>": 258, "<BOS>": 259}
        self.special_kinds = {"system": tuple(self.special_tokens)}

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(bytes([id]) if id < 256 else f"<{id}>".encode() for id in ids)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode(errors="replace")

    decode_within = decode


@pytest.fixture
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture
def random_model(random_model: Callable[..., GPT]) -> Callable[..., GPT]:
    """The common maker of random models, with the vocabulary of `ByteTokenizer`."""
    return partial(random_model, vocab_size=ByteTokenizer.vocab_size)
