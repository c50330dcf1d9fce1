"""Text while it is being written: pieces that never split a character."""

import codecs

from primegpt.tokenizers.base import Tokenizer


class TextStream:
    """Turns ids into text one by one. A token may end inside a character; its bytes then wait for the next.

    >>> text = TextStream(tokenizer)
    >>> "".join([text.push(id) for id in ids]) + text.flush() == tokenizer.decode(ids)
    True

    U+FFFD stands for bytes that no continuation can make a character, and, at the end, for an unfinished one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        """The text that is certain once `id` is known; often empty inside a character."""
        return self.decoder.decode(self.tokenizer.decode_bytes([id]))

    def flush(self) -> str:
        """What is left at the end of the text; the stream can then be used for another one."""
        return self.decoder.decode(b"", final=True)
