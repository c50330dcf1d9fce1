"""Text from a model: several prompts, several samples, a stream, or the likeliest text by beam search."""

from collections.abc import Iterator, Sequence

from primegpt.config import GenerateConfig
from primegpt.generation.beam import beam_search
from primegpt.generation.context import Row
from primegpt.generation.decoder import Completion, Decoder


class Generator(Decoder):
    """Writes text with a model and its tokenizer.

    >>> Generator(model, tokenizer).generate(["ROMEO:"], GenerateConfig(max_new_tokens=100), num_samples=3)

    For much text, `primegpt.model.quantize.for_decoding(model, "bf16")` is the same model, faster.
    """

    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        settings: GenerateConfig,
        *,
        num_samples: int = 1,
        logprobs: bool = False,
    ) -> list[list[Completion]]:
        """`num_samples` continuations of each prompt, written side by side.

        Sample i of a prompt depends on the prompt, the settings and i alone, not on what else is in the batch. With
        `settings.num_beams` above 1 they are the best texts found by beam search, the best first.
        """
        if settings.num_beams > 1:
            return [beam_search(self, self.prompt_ids(prompt, settings), settings, num_samples) for prompt in prompts]
        rows = [[self.row(prompt, settings, i) for i in range(num_samples)] for prompt in prompts]
        texts = {id(row): "" for samples in rows for row in samples}
        for row, piece in self.pieces([row for samples in rows for row in samples], settings, logprobs):
            texts[id(row)] += piece
        return [[self.completion(row, texts[id(row)], logprobs) for row in samples] for samples in rows]

    def stream(self, prompt: str | Sequence[int], settings: GenerateConfig) -> Iterator[str]:
        """The text of `generate([prompt], settings)[0][0]` in pieces, each as soon as it is certain.

        Beam search decides on a text as a whole, so that it comes in one piece.
        """
        if settings.num_beams > 1:
            yield self.generate([prompt], settings)[0][0].text
            return
        yield from self.write(self.row(prompt, settings), settings)

    def write(self, row: Row, settings: GenerateConfig) -> Iterator[str]:
        """`stream` for a row of `self.row(...)`, whose `added` and `finish_reason` tell more than the text."""
        for _, piece in self.pieces([row], settings):
            if piece:
                yield piece
