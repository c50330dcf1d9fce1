"""A run opened for use: model, tokenizer and settings together, and what one does with them."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from primegpt.config import Config, GenerateConfig, read_saved
from primegpt.data.template import ChatTemplate, Template, template_for
from primegpt.errors import MismatchError, UsageError
from primegpt.generation.decoder import Completion
from primegpt.generation.generator import Generator
from primegpt.model.compiled import compiled_for_decoding
from primegpt.model.gpt import GPT
from primegpt.model.memory import SMALL_WEIGHTS
from primegpt.model.pages import use_huge_pages
from primegpt.model.quantize import Precision, for_decoding
from primegpt.run.folder import RunFolder, latest_run
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer
from primegpt.training.precision import choose_device, choose_precision

Say = Callable[[str], None]
Prompt = str | Sequence[int]


def to_stderr(text: str) -> None:
    """Where progress and warnings go, so that standard output holds results alone."""
    print(text, file=sys.stderr, flush=True)


def silent(text: str) -> None:
    """For processes beside the one that speaks."""


@dataclass
class Run:
    """A trained model with all that belongs to it."""

    folder: RunFolder
    config: Config
    model: GPT
    tokenizer: Tokenizer
    step: int
    _decoding: tuple[object, GPT] | None = field(default=None, repr=False, compare=False)

    def generator(self, precision: str | None = None, *, compiled: bool = False, say: Say = to_stderr) -> Generator:
        """Writes with this run's model, in the number format of `generate.precision` or the one given.

        The copy of the weights that this needs is made once, and anew when the model has been trained further. Where
        it cannot be `compiled`, a line to `say` tells why.
        """
        precision = decoding_precision(precision or self.config.generate.precision, self.model)
        state = (precision, compiled, sum(p._version for p in self.model.parameters()))
        if self._decoding is None or self._decoding[0] != state:
            self._decoding = None  # gone before the next one takes memory
            make = partial(compiled_for_decoding, say=say) if compiled else for_decoding
            self._decoding = (state, make(self.model, precision))
        return Generator(self._decoding[1], self.tokenizer)

    def settings(self, **settings: Any) -> GenerateConfig:
        """The run's generation defaults with `settings` (temperature=0.5, ...) on top. Raises ConfigError."""
        given = {name: value for name, value in settings.items() if value is not None}
        return self.config.with_values(generate=given).generate

    @property
    def template(self) -> Template | None:
        """The layout of the records that this run was trained on; None for plain text."""
        return template_for(self.config.data, self.tokenizer)

    def prompt(self, text: str, genre: str | None = None, emotion: str | None = None) -> str | list[int]:
        """What the model is given for `text`: the text to continue, or the ids of an instruction to answer.

        Raises UsageError for labels that the run was not trained with.
        """
        labels = {kind: label for kind, label in (("genre", genre), ("emotion", emotion)) if label is not None}
        if self.template is not None:
            return self.template.prompt_ids(self.tokenizer, text, labels)
        if labels:
            raise UsageError(
                "this run was not trained on instructions, so a genre or an emotion means nothing to its model",
                "train with --data.template song",
            )
        return text

    def conversation(
        self, messages: Sequence[Mapping[str, str]], genre: str | None = None, emotion: str | None = None
    ) -> str | list[int]:
        """What the model is given for a conversation, [{"role": "user", "content": "…"}, …].

        A model that was not trained on conversations is given the last message alone, as `prompt` does. Raises
        UsageError when that is not the user's, or for labels that the run was not trained with.
        """
        if not messages or messages[-1]["role"] != "user":
            raise UsageError("the last message must be the user's", "there is nothing to answer otherwise")
        if isinstance(self.template, ChatTemplate):
            labels = {kind: label for kind, label in (("genre", genre), ("emotion", emotion)) if label is not None}
            return self.template.conversation_ids(self.tokenizer, messages, labels)
        return self.prompt(messages[-1]["content"], genre, emotion)

    def generate(self, prompt: Prompt = "", *, num_samples: int = 1, **settings: Any) -> str | list[str]:
        """Continue or answer `prompt` (text, or ids as they are): the new text, or a list with `num_samples` above 1.

        Every key of the section `generate` can be given: temperature=0.7, top_p=0.9, stop_strings=["."], ...
        """
        texts = [completion.text for completion in self.complete(prompt, num_samples=num_samples, **settings)]
        return texts[0] if num_samples == 1 else texts

    def complete(
        self, prompt: Prompt = "", *, num_samples: int = 1, logprobs: bool = False, **settings: Any
    ) -> list[Completion]:
        """`generate` with ids, finish reasons and, if asked for, the log-probability of each token."""
        return self.complete_all([prompt], num_samples=num_samples, logprobs=logprobs, **settings)[0]

    def complete_all(
        self, prompts: Sequence[Prompt], *, num_samples: int = 1, logprobs: bool = False, **settings: Any
    ) -> list[list[Completion]]:
        """`complete` for several prompts of any length, side by side."""
        chosen = self.settings(**settings)
        generator = self.generator(chosen.precision, compiled=chosen.compile)
        asked = [self.prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        return generator.generate(asked, chosen, num_samples=num_samples, logprobs=logprobs)

    def write_songs(self, prompts: Sequence[str], **settings: Any) -> list[str]:
        """One song for each prompt; in plain text a prompt, a blank line and the lyrics make a document."""
        asked = prompts if self.template else [f"{prompt}\n\n" for prompt in prompts]
        completions = self.complete_all(asked, **settings)
        return [samples[0].text for samples in completions]

    def stream(self, prompt: Prompt = "", **settings: Any) -> Iterator[str]:
        """The new text piece by piece, as it is written; a character is never split."""
        chosen = self.settings(**settings)
        asked = self.prompt(prompt) if isinstance(prompt, str) else prompt
        return self.generator(chosen.precision, compiled=chosen.compile).stream(asked, chosen)

    def remarks(self, prompt: Prompt) -> list[str]:
        """What is lost of a prompt before the model sees it: characters it does not know, and what is too long."""
        found, limit = [], self.model.config.block_size
        unknown = self.tokenizer.count_unknown(prompt) if isinstance(prompt, str) else {}
        if unknown:
            names = " ".join(repr(character) for character in list(unknown)[:10])
            more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
            found.append(f"the model knows no {names}{more} and reads <UNK> instead")
        length = len(self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)
        if length > limit:
            found.append(f"the prompt has {length} tokens, the model sees {limit}: it is given the last {limit // 2}")
        return found


def completion_facts(prompt: str, completion: Completion) -> dict[str, Any]:
    """A completion as values for JSON."""
    return {
        "prompt": prompt,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "prompt_ids": completion.prompt_ids,
        "ids": completion.ids,
        "logprobs": completion.logprobs,
        **({} if completion.score is None else {"score": completion.score}),
    }


def decoding_precision(wanted: str, model: GPT) -> Precision:
    """`wanted`, or for "auto" bf16 for a large model on a machine that is fast in it, else fp32."""
    if wanted != "auto":
        return cast(Precision, wanted)
    weights = sum(4 * p.numel() for p in model.parameters())
    device = model.wte.weight.device.type
    return "bf16" if weights > SMALL_WEIGHTS and choose_precision("auto", device) == "bf16" else "fp32"


def load_config(folder: RunFolder) -> Config:
    return read_saved(folder.config_path)


def load(
    path: str | Path | None = None, *, checkpoint: str | int = "best", device: str = "auto", say: Say = to_stderr
) -> Run:
    """Open a run, by default the latest in runs/, with the weights of its best checkpoint (or "last", or a step)."""
    folder = RunFolder.open(Path(path) if path else latest_run())
    config = load_config(folder)
    tokenizer = store.load(folder.tokenizer_dir)
    saved = folder.load_checkpoint(checkpoint, say, {"model"})
    expected = saved.state["fingerprints"]["tokenizer"]
    tokenizer.check_fingerprint(expected, f"the model in {saved.path}")
    if tokenizer.vocab_size != config.model.vocab_size:
        raise MismatchError(
            f"{folder.path}: the tokenizer has {tokenizer.vocab_size} ids, the model {config.model.vocab_size}"
        )
    model = GPT(config.model).load_weights(saved.tensors["model"])
    use_huge_pages(model.parameters())
    return Run(folder, config, model.to(choose_device(device)).eval(), tokenizer, saved.step)
