"""GPT-2's own byte-pair encoding (Radford et al. 2019): 50,257 ids, the same as tiktoken's "gpt2"."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Self

from primegpt.errors import ConfigError, TokenizerError
from primegpt.tokenizers.base import SpecialTokens
from primegpt.tokenizers.bpe import ByteLevelBPE, Merge, parse_merges, to_letters

# Where tiktoken gets its copy, so that one that it already has in its cache is found.
VOCAB_BPE = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"
VOCAB_BPE_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"


class GPT2(ByteLevelBPE):
    """The 256 bytes, GPT-2's 50,000 merges, `<|endoftext|>` (50256), then the user's special tokens."""

    kind = "gpt2"

    def __init__(self, merges: Sequence[Merge], special_tokens: SpecialTokens | None = None) -> None:
        """Raises ValueError if `merges` are not GPT-2's."""
        if not are_gpt2s(merges):
            raise ValueError("the merges are not those of GPT-2")
        super().__init__(merges, special_tokens)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int | None = None, special_tokens: SpecialTokens | None = None
    ) -> Self:
        """There is nothing to learn, and `texts` are not read: the vocabulary is tiktoken's copy, or downloaded.

        Raises ConfigError if `vocab_size` is another than that is, TokenizerError if there is no network.
        """
        tokenizer = cls(parse_merges(download()), special_tokens)
        if vocab_size not in (None, tokenizer.vocab_size):
            raise ConfigError(
                f"tokenizer.vocab_size = {vocab_size}, but GPT-2's has {tokenizer.vocab_size} ids", "leave it out"
            )
        return tokenizer


def are_gpt2s(merges: Sequence[Merge]) -> bool:
    """Whether these are GPT-2's merges, in its order: its vocab.bpe can be written from them."""
    lines = ["#version: 0.2", *(f"{to_letters(left)} {to_letters(right)}" for left, right in merges)]
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest() == VOCAB_BPE_SHA256


def download() -> bytes:
    """vocab.bpe, from tiktoken's cache or the network. Raises TokenizerError, with the way without either."""
    from tiktoken.load import read_file_cached

    try:
        return read_file_cached(VOCAB_BPE, VOCAB_BPE_SHA256)
    except (OSError, ValueError) as error:  # OSError: all that requests raises
        raise TokenizerError(
            f"GPT-2's vocabulary is not in tiktoken's cache and cannot be downloaded ({type(error).__name__})",
            "put vocab.bpe and encoder.json, or a GPT-2 tokenizer.json, into a folder and give it as tokenizer.path",
        ) from error
