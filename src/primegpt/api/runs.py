"""A run opened for use: model, tokenizer and settings together, and what one does with them."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primegpt.config import Config, GenerateConfig, read_toml, resolve
from primegpt.errors import MismatchError
from primegpt.generation.generator import Completion, Generator
from primegpt.model.gpt import GPT
from primegpt.run.folder import RunFolder, latest_run
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer
from primegpt.training.precision import choose_device

Say = Callable[[str], None]


def to_stderr(text: str) -> None:
    """Where progress and warnings go, so that standard output holds results alone."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class Run:
    """A trained model with all that belongs to it."""

    folder: RunFolder
    config: Config
    model: GPT
    tokenizer: Tokenizer
    step: int

    def generator(self) -> Generator:
        return Generator(self.model, self.tokenizer)

    def settings(self, **settings: Any) -> GenerateConfig:
        """The run's generation defaults with `settings` (temperature=0.5, ...) on top. Raises ConfigError."""
        given = {name: value for name, value in settings.items() if value is not None}
        return self.config.with_values(generate=given).generate

    def generate(self, prompt: str = "", *, num_samples: int = 1, **settings: Any) -> str | list[str]:
        """Continue `prompt`: the new text, or a list of texts when `num_samples` is above 1."""
        texts = [completion.text for completion in self.complete(prompt, num_samples=num_samples, **settings)]
        return texts[0] if num_samples == 1 else texts

    def complete(self, prompt: str = "", *, num_samples: int = 1, **settings: Any) -> list[Completion]:
        """`generate` with ids and finish reasons."""
        return self.generator().generate([prompt], self.settings(**settings), num_samples=num_samples)[0]

    def write_songs(self, prompts: Sequence[str], **settings: Any) -> list[str]:
        """One song for each prompt, as the songbook's documents are laid out: prompt, blank line, lyrics."""
        completions = self.generator().generate([f"{prompt}\n\n" for prompt in prompts], self.settings(**settings))
        return [samples[0].text for samples in completions]

    def stream(self, prompt: str = "", **settings: Any) -> Iterator[str]:
        """The new text piece by piece, as it is written; a character is never split."""
        return self.generator().stream(prompt, self.settings(**settings))


def load_config(folder: RunFolder) -> Config:
    return resolve(read_toml(folder.config_path))


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
    return Run(folder, config, model.to(choose_device(device)).eval(), tokenizer, saved.step)
