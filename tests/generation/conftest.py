"""What the tests of generation share: tiny random models, and a tokenizer of bytes."""

from collections.abc import Callable, Iterable, Iterator

import pytest
import torch

from primegpt.config import resolve
from primegpt.model.gpt import GPT


class ByteTokenizer:
    """One id a byte, then end of text, padding, unknown and beginning of text; the parts of a tokenizer used here."""

    eot_id, pad_id, unk_id, bos_id = 256, 257, 258, 259
    vocab_size = 260

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(bytes([id]) if id < 256 else f"<{id}>".encode() for id in ids)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode(errors="replace")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Models this small only lose time to the hand-over between threads, most of it when the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture
def random_model() -> Callable[..., GPT]:
    """A maker of small models: weights N(0, 0.2), gains N(1, 0.2). With the initial ones attention hardly matters."""

    def make(preset: str = "gpt2", **sizes: object) -> GPT:
        small = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 64, "vocab_size": 260}
        model = GPT(resolve({"model": {"preset": preset, **small, **sizes}}).model)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                gain = parameter.dim() == 1 and name.endswith("weight")
                parameter.normal_(float(gain), 0.2, generator=generator)
        return model.eval()

    return make
