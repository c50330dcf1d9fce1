"""Kinds of tokenizers whose saved form is a `tokenizer.json`, as Hugging Face's `tokenizers` reads it."""

import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from primegpt.config import MAX_VOCAB
from primegpt.errors import TokenizerError
from primegpt.tokenizers.base import SYSTEM, SpecialTokens, Tokenizer


class JsonTokenizer(Tokenizer):
    """A kind that Hugging Face's `tokenizers` can express: its saved form is their `tokenizer.json`.

    `tokenizers.Tokenizer.from_file` gives the same ids, once `encode_special_tokens = True` is set on it (they do not
    store that; without it, text that spells a special token becomes one).
    """

    file_names = ("tokenizer.json",)
    pre_tokenizer: ClassVar[dict[str, object]]
    decoder: ClassVar[dict[str, object]]
    _read_from: dict[str, bytes] | None = None  # the saved form, where it is at hand: making it takes a while

    @abstractmethod
    def _model(self) -> dict[str, object]:
        """The "model" entry of tokenizer.json."""

    @classmethod
    @abstractmethod
    def _from_model(cls, model: dict[str, Any], special_tokens: SpecialTokens) -> Self:
        """The tokenizer whose `_model()` is `model`."""

    def with_special_tokens(self, added: SpecialTokens) -> Self:
        own = {kind: names for kind, names in self.special_kinds.items() if kind != SYSTEM}
        grown = self._from_model(self._model(), {**own, **added})
        if grown._pieces[: self.vocab_size] != self._pieces:  # names that are put among those of an older kind
            raise TokenizerError(
                f"this {self.kind} tokenizer has other special tokens of the kinds {', '.join(own)} already",
                "use its own names, or give the new ones a kind of their own",
            )
        return grown

    def _document(self) -> dict[str, object]:
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
        by_id = sorted(self.special_tokens.items(), key=lambda item: item[1])
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": id, "content": name, **flags} for name, id in by_id],
            "normalizer": None,
            "pre_tokenizer": self.pre_tokenizer,
            "post_processor": None,
            "decoder": self.decoder,
            "model": self._model(),
        }

    def _files(self) -> dict[str, bytes]:
        return self._read_from or {"tokenizer.json": json.dumps(self._document(), ensure_ascii=False).encode()}

    @classmethod
    def _from_files(cls, files: Mapping[str, bytes], special_tokens: SpecialTokens) -> Self:
        found = json.loads(files["tokenizer.json"])
        if len(found["model"]["vocab"]) > MAX_VOCAB:
            raise ValueError(f"the vocabulary is larger than {MAX_VOCAB:,}")
        tokenizer = cls._from_model(found["model"], special_tokens)
        # Only what we would have written is accepted: ids, vocabulary and merges that agree with each other, and
        # never a regular expression of someone else's making.
        ours = tokenizer._document()
        for key in ("added_tokens", "normalizer", "pre_tokenizer", "model"):
            if found[key] != ours[key]:
                raise ValueError(f"{key!r} in tokenizer.json is not that of a {cls.kind} tokenizer")
        if found == ours:
            tokenizer._read_from = dict(files)
        return tokenizer
