"""A run opened for use: model, tokenizer and settings together, and what one does with them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, cast

from primegpt import notebook
from primegpt.config import TOKENIZER_KINDS, Config, GenerateConfig, Layer, refuse_idle
from primegpt.data.layout import Template
from primegpt.data.shown import introduction
from primegpt.data.template import ChatTemplate, template_for
from primegpt.device import choose_device, choose_precision, memory_of
from primegpt.errors import ConfigError, MismatchError, PrimegptError, UsageError, quoted
from primegpt.hugepages import use_huge_pages
from primegpt.inference.context import Completion
from primegpt.inference.decoder import Decoder
from primegpt.inference.quantize import Precision, compiled_for_decoding, for_decoding
from primegpt.model.gpt import GPT
from primegpt.model.memory import SMALL_WEIGHTS, inference_memory
from primegpt.model.size import human_bytes, human_count, parameter_count
from primegpt.run.checkpoint import Checkpoint
from primegpt.run.contents import config_in_use
from primegpt.run.extensions import open_extension
from primegpt.run.folder import RunFolder, latest_run
from primegpt.terminal import Say, to_stderr
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer
from primegpt.tokenizers.imported import Imported

Prompt = str | Sequence[int]
# What other programs call it.
ELSEWHERE = {
    "max_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "n": "num_samples",
    "num_return_sequences": "num_samples",
    "stop": "stop_strings",
    "beams": "num_beams",
    "do_sample": "temperature=0 for False",
}
MAX_SAMPLES = 100_000  # of a prompt, written side by side


@dataclass(repr=False)
class Run:
    """A trained model with all that belongs to it.

    Examples:
        >>> run = primegpt.load("runs/my-1")
        >>> run.generate("Once upon a time", max_new_tokens=200)
        >>> run.evaluate("other.txt")["text"]["bits_per_byte"]
        >>> [line["val/loss"] for line in run.metrics if "val/loss" in line]
    """

    folder: RunFolder
    config: Config
    model: GPT
    tokenizer: Tokenizer
    step: int
    _decoding: tuple[object, GPT] | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        """What it is, how it was trained, where it lies: a line each."""
        from primegpt.report.history import History  # reads what training has written, which stands above

        return "Run: " + "\n     ".join(self._lines(History.read(self.folder.path)))

    def _lines(self, told: Any) -> list[str]:
        """The same, of a `History`."""
        model = self.config.model
        size = f"{human_count(parameter_count(model))} parameters, {model.n_layer} layers, {model.n_embd} wide"
        losses = told.summary()
        loss = losses["best_loss"] if losses["final_loss"] is None else losses["final_loss"]
        learnt = f" on {', '.join(self.config.data.sources)}" if told.lines else ""
        reached = f", validation loss {loss:.4f} {losses['loss_unit']}" if loss is not None else ""
        device = self.model.device
        return [
            f"{model.preset}, {size}, context {model.block_size}, {self.tokenizer.kind} of "
            f"{self.tokenizer.vocab_size:,} ids",
            f"{told.status.partition(';')[0]}{learnt}{reached}",
            f"{self.folder.path}, checkpoint {self.step:,}, on {device}",
        ]

    def _repr_html_(self) -> str:
        """In a notebook: the same, and the course of its loss."""
        from primegpt.report.history import History  # above, as in `__repr__`

        try:
            told = History.read(self.folder.path)
        except PrimegptError as error:  # the folder is gone or broken, the model is there
            return notebook.card(self.name, [str(error)], [])
        lines = self._lines(told)
        curves = [("training loss", told.curve("train/loss")), ("validation loss", told.curve("val/loss"))]
        return notebook.card(self.name, lines, curves)

    @property
    def name(self) -> str:
        """That of its folder, whose bytes need not be text."""
        return os.fsencode(os.path.basename(os.path.abspath(self.folder.path))).decode(errors="replace")

    @property
    def unit(self) -> str:
        """What the loss is counted by."""
        return TOKENIZER_KINDS[self.tokenizer.kind].unit

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, in order: `step` and whatever was measured there (`train/loss`, `val/loss`, …).

        Losses in nats per token, `seconds` of training so far. Read anew each time, so that a run can be watched.
        """
        return self.folder.read_metrics()

    def generator(self, precision: str | None = None, *, compiled: bool = False, say: Say = to_stderr) -> Decoder:
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
        return Decoder(self._decoding[1], self.tokenizer)

    def settings(self, **settings: Any) -> GenerateConfig:
        """The run's generation defaults with `settings` (temperature=0.5, ...) on top. Raises ConfigError."""
        return self.config.with_values(generate=given_settings(settings)).generate

    def chosen(self, **settings: Any) -> GenerateConfig:
        """`self.settings`, where each of `settings` has an effect. Raises ConfigError."""
        given = given_settings(settings)
        config = self.config.with_values(generate=given)
        refuse_idle(Layer({"generate": given}), config)
        return config.generate

    @property
    def template(self) -> Template | None:
        """The layout of the records that this run was trained on; None for plain text."""
        return template_for(self.config.data, self.tokenizer)

    def prompt(self, text: str, genre: str | None = None, emotion: str | None = None) -> str | list[int]:
        """What the model is given for `text`: the text to continue, or the ids of an instruction to answer.

        All that generates does this by itself; call it to see the ids, or to change them: `generate(ids)` goes on
        from exactly these. `genre` and `emotion` are labels of the song template. Raises UsageError for labels that the
        run was not trained with.
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

    @property
    def converses(self) -> bool:
        """Whether the model was trained to be given what was said before."""
        if self.template is not None:
            return isinstance(self.template, ChatTemplate)
        return isinstance(self.tokenizer, Imported) and self.tokenizer.chat_template is not None

    def introduction(self, prompt: str, *, chat: bool = False) -> str:
        """What to show before the answer to `prompt`: a text that is continued, or a question and a new line.

        `chat`: the prompt is given as a conversation, as `chat` does.
        """
        return introduction(self.template is not None or (chat and self.converses), prompt)

    def conversation(
        self, messages: Sequence[Mapping[str, str]], genre: str | None = None, emotion: str | None = None
    ) -> str | list[int]:
        """What the model is given for a conversation, [{"role": "user", "content": "…"}, …].

        A model of others has its own chat template for them. One that was not trained on conversations is given the
        last message alone, as `prompt` does. Raises UsageError when that is not the user's, or for labels that the run
        was not trained with.
        """
        if not messages or messages[-1]["role"] != "user":
            raise UsageError("the last message must be the user's", "there is nothing to answer otherwise")
        if isinstance(self.template, ChatTemplate):
            labels = {kind: label for kind, label in (("genre", genre), ("emotion", emotion)) if label is not None}
            return self.template.conversation_ids(self.tokenizer, messages, labels)
        if self.converses:
            return cast(Imported, self.tokenizer).conversation_ids(messages)
        return self.prompt(messages[-1]["content"], genre, emotion)

    def generate(self, prompt: Prompt = "", *, num_samples: int = 1, **settings: Any) -> str | list[str]:
        """Continue or answer `prompt` (text, or ids as they are): the new text, or a list with `num_samples` above 1.

        Every key of the section `generate` can be given: temperature=0.7, top_p=0.9, stop_strings=["."], ...; and
        `genre` and `emotion`, where the run was trained on songs. Raises UsageError for a label or a setting that
        means nothing to this run, and ConfigError for a value out of bounds.
        """
        texts = [completion.text for completion in self.complete(prompt, num_samples=num_samples, **settings)]
        return texts[0] if num_samples == 1 else texts

    def complete(
        self, prompt: Prompt = "", *, num_samples: int = 1, logprobs: bool = False, **settings: Any
    ) -> list[Completion]:
        """`generate` with ids, finish reasons and, if asked for, the log-probability of each token."""
        return self.complete_all([prompt], num_samples=num_samples, logprobs=logprobs, **settings)[0]

    def complete_all(
        self,
        prompts: Sequence[Prompt],
        *,
        num_samples: int = 1,
        logprobs: bool = False,
        genre: str | None = None,
        emotion: str | None = None,
        **settings: Any,
    ) -> list[list[Completion]]:
        """`complete` for several prompts of any length, side by side."""
        chosen = self.chosen(**settings)
        if type(num_samples) is not int or not 1 <= num_samples <= MAX_SAMPLES:
            raise UsageError(f"num_samples = {quoted(num_samples)}", f"ask for 1 to {MAX_SAMPLES:,}")
        asked = [self._asked(prompt, genre, emotion) for prompt in prompts]
        rows = chosen.num_beams if chosen.num_beams > 1 else num_samples * len(asked)
        self.require_memory(rows, max(map(len, asked), default=0) + chosen.max_new_tokens, chosen)
        decoder = self.generator(chosen.precision, compiled=chosen.compile)
        return decoder.generate(asked, chosen, num_samples=num_samples, logprobs=logprobs)

    def write_songs(self, prompts: Sequence[str], **settings: Any) -> list[str]:
        """One song for each prompt; in plain text a prompt, a blank line and the lyrics make a document."""
        asked = prompts if self.template else [f"{prompt}\n\n" for prompt in prompts]
        completions = self.complete_all(asked, **settings)
        return [samples[0].text for samples in completions]

    def stream(
        self, prompt: Prompt = "", *, genre: str | None = None, emotion: str | None = None, **settings: Any
    ) -> Iterator[str]:
        """The text of `generate` piece by piece, as it is written; a character is never split."""
        chosen = self.chosen(**settings)
        asked = self._asked(prompt, genre, emotion)
        self.require_memory(chosen.num_beams, len(asked) + chosen.max_new_tokens, chosen)
        return self.generator(chosen.precision, compiled=chosen.compile).stream(asked, chosen)

    def require_memory(self, rows: int, length: int, settings: GenerateConfig) -> None:
        """Raise UsageError if by the forecast `rows` texts of `length` tokens, written side by side, cannot fit."""
        config, device = self.config.with_values(generate=dict(settings)), self.model.device.type
        need, have = inference_memory(config, rows, min(length, config.model.block_size)).total, memory_of(device)
        if need > have:
            texts = f"{rows:,} texts side by side need" if rows > 1 else "one text needs"
            remedy = "ask for fewer samples, beams or slots" if rows > 1 else "lower max_new_tokens"
            what = f"{texts} about {human_bytes(need)} by forecast"
            raise UsageError(f"{what}, and there are {human_bytes(have)}", remedy)

    def _asked(self, prompt: Prompt, genre: str | None, emotion: str | None) -> Prompt:
        if isinstance(prompt, str):
            return self.prompt(prompt, genre, emotion)
        ids = prompt.tolist() if hasattr(prompt, "tolist") else prompt  # of a tensor or an array
        if not isinstance(ids, list | tuple) or not all(isinstance(id, Integral) for id in ids):
            raise UsageError(f"a prompt is a text or ids, not {prompt!r}", "`complete_all` takes several prompts")
        if genre or emotion:
            raise UsageError("ids are taken as they are, so they get no genre or emotion", "give text, or leave it out")
        return ids

    def evaluate(self, text: str | Path | None = None, **asked: Any) -> dict[str, Any]:
        """Measure this run: its loss on `text`, or on its own validation text; or whatever else is asked for.

        `text` is a source as for training (a file, a folder, a glob; always, if it is a Path), or the text itself: a
        string with white space in it that names no file. Under "text" the report has its "loss" (nats per token),
        "perplexity", "bits_per_byte", "tokens" and "bytes". The other arguments are those of `primegpt evaluate`:
        adherence=True, memorization=True, hellaswag=FILE, harness=[TASK], limit, stride, batch_size, say. Raises
        DataError for a text that cannot be read.
        """
        from primegpt.jobs.evaluation import evaluate_run  # above: calls upward, as is `push`
        from primegpt.jobs.text_loss import text_or_source

        return evaluate_run(self, None if text is None else text_or_source(text), **asked)

    def push(self, repo: str, *, private: bool = False, say: Say = to_stderr) -> str:
        """Upload this run's checkpoint, as it lies on the disk, to `repo` ("me/my-gpt") on the Hugging Face hub.

        As `primegpt push`: for Transformers, with a model card. The token is that of `hf auth login` or of HF_TOKEN.
        Returns the address. Raises UsageError where the hub does not allow it or cannot be reached.
        """
        from primegpt.jobs.publishing import push  # above: a call upward, as `evaluate`

        return push(self.folder.path, repo, private=private, checkpoint=self.step, say=say)

    def remarks(self, prompt: Prompt) -> list[str]:
        """What is lost of a prompt before the model sees it: characters it does not know, and what is too long."""
        return remarks_on(prompt, self.tokenizer, self.model.config.block_size)


def remarks_on(prompt: Prompt, tokenizer: Tokenizer, limit: int) -> list[str]:
    """`Run.remarks` for a model that sees `limit` tokens."""
    found = []
    unknown = tokenizer.count_unknown(prompt) if isinstance(prompt, str) else {}
    if unknown:
        names = " ".join(repr(character) for character in list(unknown)[:10])
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        found.append(f"the model knows no {names}{more} and reads {tokenizer.unk_token or 'nothing'} instead")
    length = len(tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)
    if length > limit:
        found.append(f"the prompt has {length} tokens, the model sees {limit}: it is given the last {limit // 2}")
    return found


def given_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `settings` that say something, as the section `generate` has them. Raises ConfigError."""
    for name in settings.keys() & ELSEWHERE.keys():
        raise ConfigError(f"there is no setting {name!r} here", f"it is called {ELSEWHERE[name]}")
    given = {name: value for name, value in settings.items() if value is not None}
    if isinstance(stop := given.get("stop_strings"), str):
        given["stop_strings"] = (stop,)
    return given


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
    device = model.device.type
    return "bf16" if weights > SMALL_WEIGHTS and choose_precision("auto", device) == "bf16" else "fp32"


def load_config(folder: RunFolder, say: Say = to_stderr, checkpoint: Checkpoint | None = None) -> Config:
    """The configuration of a run, as it is used with `checkpoint`, or with the newest one."""
    return config_in_use(folder, say, checkpoint or folder.load_newest(say, (), resumable=False))


def load(
    path: str | Path | None = None,
    *,
    checkpoint: str | int = "best",
    device: str = "auto",
    trust_extension: bool = False,
    say: Say = to_stderr,
) -> Run:
    """Open a run, by default the latest in runs/, with the weights of its best checkpoint (or "last", or a step).

    Where its network has parts of an extension, that file is run, with your rights: if you have trained with it here,
    or `trust_extension` says that you have read it.
    """
    folder = RunFolder.open(Path(path) if path else latest_run())
    tokenizer = store.load(folder.tokenizer_dir)
    saved = folder.load_checkpoint(checkpoint, say, {"model"})
    config = load_config(folder, say, saved)
    expected = saved.state["fingerprints"]["tokenizer"]
    tokenizer.check_fingerprint(expected, f"the model in {saved.path}")
    if tokenizer.vocab_size != config.model.vocab_size:
        raise MismatchError(
            f"{folder.path}: the tokenizer has {tokenizer.vocab_size} ids, the model {config.model.vocab_size}"
        )
    if config.model.own:
        open_extension(folder, config, trusted=trust_extension)
    model = GPT(config.model).load_weights(saved.tensors["model"])
    use_huge_pages(model.parameters())
    return Run(folder, config, model.to(choose_device(device)).eval(), tokenizer, saved.step)
