"""Text while it is being written: pieces that never split a character, and end at a stop string."""

import codecs
from collections.abc import Sequence

from primegpt.tokenizers.base import Tokenizer


class TextStream:
    """Turns ids into text one by one. A token may end inside a character; its bytes then wait for the next.

    >>> text = TextStream(tokenizer)
    >>> "".join([text.push(id) for id in ids]) + text.flush() == tokenizer.decode(ids)
    True

    U+FFFD stands for bytes that no continuation can make a character, and, at the end, for an unfinished one.
    At the first of the `stop` strings the text ends: `stopped` is True and nothing more comes out. What may be the
    beginning of one waits until it is known not to be.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.held = ""
        self.stopped = False

    def push(self, id: int) -> str:
        """The text that is certain once `id` is known; often empty inside a character."""
        return self.release(self.decoder.decode(self.tokenizer.decode_bytes([id])), last=False)

    def flush(self) -> str:
        """What is left at the end of the text; the stream can then be used for another one."""
        rest = self.release(self.decoder.decode(b"", final=True), last=True)
        self.stopped = False
        return rest

    def release(self, new: str, last: bool) -> str:
        """The part of what is held and `new` that no stop string can touch any more."""
        if self.stopped:
            return ""
        text, self.held = self.held + new, ""
        found = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        if last or not self.stop:
            return text
        end = len(text) - max(overlap(text, stop) for stop in self.stop)
        self.held = text[end:]
        return text[:end]


def overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` with which `stop` begins."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
