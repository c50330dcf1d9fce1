"""The functions behind both the command line and `import primegpt`: train, resume, load, generate, demo.

run = primegpt.train("my.txt", minutes=2)
print(run.generate("ROMEO:", max_new_tokens=200))
run = primegpt.load("runs/my-1")  # .model .tokenizer .config
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primegpt.config import Config, GenerateConfig, Layer, preset_name, read_toml, resolve, write_toml
from primegpt.data.batches import validation_batches
from primegpt.data.prepare import Corpus, prepare, reopen
from primegpt.data.shards import Shards
from primegpt.data.songbook import songbook
from primegpt.data.sources import source_bytes
from primegpt.errors import ConfigError, DataError, MismatchError
from primegpt.evaluation.perplexity import LossResult, evaluate_loss
from primegpt.generation.generator import Completion, Generator
from primegpt.model.gpt import GPT
from primegpt.model.size import (
    flops_per_token,
    human_bytes,
    human_count,
    inference_memory,
    parameter_breakdown,
    training_memory,
)
from primegpt.run.atomic import write_json_atomic, write_text_atomic
from primegpt.run.checkpoint import load_newest
from primegpt.run.folder import RunFolder, latest_run, next_run_path
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer
from primegpt.training import plan as planning
from primegpt.training.metrics import Speed
from primegpt.training.precision import Precision, choose_device, matmul_rate
from primegpt.training.progress import display
from primegpt.training.report import plot_losses
from primegpt.training.trainer import EvaluationSet, Observer, Trainer

Say = Callable[[str], None]


def to_stderr(text: str) -> None:
    """Where progress and warnings go, so that standard output holds results alone."""
    print(text, file=sys.stderr, flush=True)


DEMO_SEED = 1  # of the prompts of the demo; the songbook that it trains on is seed 0


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


# ---- Training --------------------------------------------------------------------------------------------------------


def train(
    *sources: str | Path | Config,
    out: str | Path | None = None,
    overwrite: bool = False,
    minutes: float | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    observer: Observer | None = None,
    say: Say = to_stderr,
    started: float | None = None,
) -> Run:
    """Train a GPT on `sources` (texts, or one configuration) and return the run, its best checkpoint loaded.

    `settings` holds what a command line would, `{"train": {"max_steps": 500}}`, and wins over a configuration file.
    `minutes` is the wall-clock budget of the whole call (3 when no budget is given). Raises UsageError for a wrong
    request, before anything is written.
    """
    started = time.monotonic() if started is None else started
    flags = Layer(_with_minutes(settings or {}, minutes))
    config = configure([str(s) if isinstance(s, Path) else s for s in sources], flags)
    path = Path(out) if out else next_run_path(run_name(config))
    RunFolder(path).refuse_unless_free(overwrite)
    config = planning.prepare_device(config)
    require_text(config)
    corpus = prepare(config.data, config.tokenizer, report=say)
    config = fill_vocabulary(config, corpus.tokenizer)
    config = planning.make_plan(config, corpus, elapsed=time.monotonic() - started)
    with ExitStack() as stack:
        folder = RunFolder.create(path, overwrite)
        stack.enter_context(folder.lock())
        store.save(corpus.tokenizer, folder.tokenizer_dir)
        write_json_atomic(folder.data_path, corpus.record())
        write_text_atomic(folder.config_path, write_toml(config))
        return _fit(folder, config, corpus, observer=observer, say=say)


def resume(path: str | Path, *, observer: Observer | None = None, say: Say = to_stderr) -> Run:
    """Continue the run at `path` from its newest good checkpoint; a finished run is returned as it is.

    The losses and weights that follow are those of a run that never stopped, bit for bit, on the same machine; what
    differs from the conditions of the first session is said.
    """
    folder = RunFolder.open(Path(path))
    with folder.lock():
        config = load_config(folder)
        config = planning.prepare_device(config)
        tokenizer = store.load(folder.tokenizer_dir)
        corpus = reopen(json.loads(folder.data_path.read_text(encoding="utf-8")), config.data, tokenizer, report=say)
        return _fit(folder, config, corpus, observer=observer, say=say, resuming=True)


def _fit(
    folder: RunFolder,
    config: Config,
    corpus: Corpus,
    *,
    observer: Observer | None,
    say: Say,
    resuming: bool = False,
) -> Run:
    """Train in `folder` to the end of the plan, then judge the best checkpoint on the whole validation text."""
    for name, value in planning.table(config, corpus):
        say(f"{name:<10} {value}")
    model = GPT(config.model, config.train.seed).to(config.train.device)
    assert config.train.attention != "auto", "the plan resolves attention"
    model.use_attention(config.train.attention)
    with ExitStack() as stack:
        watcher = observer or stack.enter_context(display())
        trainer = _trainer(folder, config, corpus, model, watcher)
        checkpoint = load_newest(folder.checkpoints_dir, say) if resuming else None
        if checkpoint:
            for difference in planning.differences(checkpoint.state["conditions"], trainer.conditions):
                say(f"not bit for bit the same as before: {difference}")
            for name, value in trainer.fingerprints.items():
                if (saved := checkpoint.state["fingerprints"][name]) != value:
                    raise MismatchError(f"{folder.path} was trained with {name} {saved}, found {value}")
            trainer.restore(checkpoint)
            say(f"continuing at step {checkpoint.step} of {trainer.state.max_steps}")
        trainer.fit()
    run = load(folder.path)
    judge(run, corpus, trainer.state.step, print)
    return run


def _trainer(folder: RunFolder, config: Config, corpus: Corpus, model: GPT, observer: Observer) -> Trainer:
    train = config.train
    length = train.sequence_length or config.model.block_size
    generator = Generator(model, corpus.tokenizer)
    prompts = train.sample_prompts or default_prompts(corpus)
    settings = config.generate

    def sample(_: GPT) -> str:
        texts = generator.generate(prompts, settings)
        return "\n\n".join(prompt + completions[0].text for prompt, completions in zip(prompts, texts, strict=True))

    return Trainer(
        config,
        model,
        planning.training_windows(config, corpus),
        train_set=evaluation_set(corpus.train, corpus.tokenizer, config, length),
        val_set=evaluation_set(corpus.val, corpus.tokenizer, config, length),
        folder=folder,
        precision=Precision(train.precision, train.device),
        observer=observer,
        sample=sample,
        fingerprints={"tokenizer": corpus.tokenizer.fingerprint, "data": corpus.train.fingerprint},
        conditions=planning.conditions(config),
        speed=Speed(flops_per_token(config.model, length), config.plan.peak_flops),
    )


def evaluation_set(shards: Shards, tokenizer: Tokenizer, config: Config, length: int) -> EvaluationSet:
    """The first `data.val_tokens` targets of a split, in memory."""
    limit = min(config.data.val_tokens or len(shards), len(shards) - 1)
    batches = list(
        validation_batches(
            shards,
            sequence_length=length,
            batch_size=config.train.batch_size,
            max_targets=limit,
            isolate_documents=config.data.isolate_documents,
        )
    )
    return EvaluationSet(batches, len(tokenizer.decode_bytes(shards.slice(1, limit + 1), skip_special_tokens=True)))


def judge(run: Run, corpus: Corpus, last_step: int, say: Say) -> LossResult:
    """Every held-out target once, under the best checkpoint: the figure to quote. Logged, plotted, said."""
    config = run.config
    precision = Precision(config.train.precision, config.train.device)
    result = evaluate_loss(
        run.model.to(config.train.device),
        validation_batches(
            corpus.val,
            sequence_length=config.train.sequence_length or config.model.block_size,
            batch_size=config.train.batch_size,
            isolate_documents=config.data.isolate_documents,
        ),
        text_bytes=corpus.val_bytes,
        device=config.train.device,
        autocast=precision.autocast,
    )
    line = {
        "step": last_step,
        "final/step": run.step,
        "final/val/loss": result.loss,
        "final/val/perplexity": result.perplexity,
        "final/val/bits_per_byte": result.bits_per_byte,
    }
    run.folder.truncate_metrics(lambda row: "final/val/loss" not in row)
    run.folder.append_metrics(line)
    plot_losses(run.folder.read_metrics(), run.folder.loss_png)
    unit = "character" if run.tokenizer.kind == "char" else "token"
    say(f"{'result':<10} {result.loss:.4f} nats per {unit}, {result.bits_per_byte:.4f} bits per byte")
    say(f"{'':<10} over all the held-out text, each target once; best checkpoint, step {run.step}")
    say(f"{'run':<10} {run.folder.path}")
    return result


def default_prompts(corpus: Corpus) -> list[str]:
    """Beginnings of validation text to continue in samples: the first line of a document, or an empty prompt."""
    if corpus.n_documents == 1:
        head = corpus.tokenizer.decode(corpus.val.slice(1, min(200, len(corpus.val))), skip_special_tokens=True)
        lines = [line for line in head.splitlines()[1:] if line.strip()] or [head]
        return [lines[0][:40] + "\n"]
    starts = corpus.val.document_starts[:2]
    texts = [corpus.tokenizer.decode(corpus.val.slice(s + 1, min(s + 65, len(corpus.val)))) for s in map(int, starts)]
    return [text.splitlines()[0] + "\n" for text in texts if text.strip()] or [""]


# ---- The demo --------------------------------------------------------------------------------------------------------


def demo(
    out: str | Path | None = None,
    *,
    minutes: float = 2.0,
    songs: int = 24,
    say: Say = print,
    started: float | None = None,
) -> Run:
    """Train on the songbook for `minutes`, then write `songs` songs and measure how much of a song they are."""
    path = out or next_run_path("demo")
    say(f"A songbook is written, a small GPT trains on it for about {minutes:g} minutes, and then it sings.\n")
    run = train(recipe_path("demo.toml"), out=path, minutes=minutes, say=say, started=started)
    prompts = [song.prompt for song in songbook(songs, seed=DEMO_SEED)]
    texts = run.write_songs(prompts)
    say("\nTwo of its songs, from prompts that it has not seen:")
    for prompt, text in zip(prompts[:2], texts, strict=False):
        say(f"\n  » {prompt}\n\n" + "\n".join(f"    {line}" for line in text.strip().splitlines()))
    say(f"\nOver {songs} such songs:")
    for name, value in describe_songs(texts, run.config.data.songs):
        say(f"  {name:<38} {value}")
    say(
        f"""
What to type next:
  primegpt generate {run.folder.path} "a happy pop song about the train"
  primegpt train my.txt --minutes 2             your own text
  cat {run.folder.samples_dir}/*      the same prompts, from noise to song"""
    )
    return run


def describe_songs(texts: Sequence[str], training_songs: int) -> list[tuple[str, str]]:
    """How much of a song generated `texts` are, against what chance or real songs would give."""
    from primegpt.evaluation import songform

    book = [song.lyrics for song in songbook(training_songs)]
    fresh = [song.lyrics for song in songbook(len(texts), seed=DEMO_SEED)]
    order = sum(map(songform.valid_section_order, texts)) / max(1, len(texts))
    rhymes = sum(map(songform.rhyming_pair_share, texts)) / max(1, len(texts))
    shuffled = songform.shuffled_rhyming_pair_share(texts, seed=0)
    copied = songform.copied_ngram_share(texts, book, 12)
    baseline = songform.copied_ngram_share(fresh, book, 12)
    times = f", {rhymes / shuffled:.1f} times as many" if shuffled else ""
    return [
        ("sections in an order a song can have", f"{order:.0%}"),
        ("pairs of near lines that rhyme", f"{rhymes:.1%} (shuffled lines: {shuffled:.1%}{times})"),
        ("12-word spans copied from training", f"{copied:.1%} (a fresh songbook: {baseline:.1%})"),
    ]


def recipe_path(name: str) -> Path:
    """A recipe of configs/, which lies in the package when installed and beside it in a checkout."""
    here = Path(__file__).resolve()
    return next(path for path in (here.parent / "configs" / name, here.parents[2] / "configs" / name) if path.exists())


# ---- Configuration ---------------------------------------------------------------------------------------------------


def configure(sources: Sequence[str | Config], flags: Layer) -> Config:
    """The configuration that `sources` and command-line `flags` ask for; a bare text gets the zero-config recipe."""
    if len(sources) == 1 and isinstance(sources[0], Config):
        return resolve(sources[0].model_dump(exclude_unset=True), flags)
    names = [str(source) for source in sources]
    files = [name for name in names if name.endswith(".toml")]
    if files and len(names) > 1:
        raise ConfigError(f"{files[0]} stands beside other sources", "name texts in its [data] sources instead")
    if files:
        return resolve(read_toml(files[0]), flags)
    given = flags.values.get("data", {}).get("sources", ())
    texts = Layer({"data": {"sources": [*names, *given]}})
    if not texts.values["data"]["sources"]:
        raise ConfigError("no text to train on", "name a file, a folder, or `songbook`")
    train = flags.values.get("train", {})
    device = choose_device(train.get("device", "auto"))
    data = resolve(flags, texts).data  # also refuses bad flags before the text is looked at
    size = source_bytes(data.sources, songs=data.songs)
    recipe = planning.recipe(size, device, train.get("minutes"), preset_name({"model": {"preset": "prime"}}, flags))
    return resolve(flags, texts, recipe=recipe)


def _with_minutes(settings: Mapping[str, Mapping[str, Any]], minutes: float | None) -> dict[str, Any]:
    merged = {section: dict(values) for section, values in settings.items()}
    if minutes is not None:
        merged.setdefault("train", {})["minutes"] = minutes
    return merged


def require_text(config: Config) -> None:
    """Refuse a text that cannot fill one window, before anything is written: a token is at least a byte."""
    length = config.train.sequence_length or config.model.block_size
    size = source_bytes(config.data.sources, songs=config.data.songs)
    if size is not None and size <= length:
        raise DataError(
            f"{', '.join(config.data.sources)}: {size} bytes are fewer than one context of {length} tokens",
            "add text, or lower --model.block_size",
        )


def fill_vocabulary(config: Config, tokenizer: Tokenizer) -> Config:
    """`model.vocab_size` from the tokenizer. Raises MismatchError if the configuration says otherwise."""
    if config.model.vocab_size not in (0, tokenizer.vocab_size):
        raise MismatchError(
            f"model.vocab_size = {config.model.vocab_size}, but the tokenizer has {tokenizer.vocab_size} ids",
            "leave model.vocab_size out: it is the tokenizer's",
        )
    return config.with_values(model={"vocab_size": tokenizer.vocab_size})


def info(target: str | Path | None = None) -> dict[str, Any]:
    """What a run or a configuration file amounts to: parameters, FLOPs, memory, expected time. Nothing is built.

    Time is that of the plan for a run; for a recipe it is a forecast from this machine's measured rate of matrix
    products, of which training is taken to reach half.
    """
    path = Path(target) if target else latest_run()
    is_run = path.is_dir() or not path.exists()
    config = load_config(RunFolder.open(path)) if is_run else resolve(read_toml(path))
    vocabulary = config.model.vocab_size or (config.tokenizer.vocab_size if config.tokenizer.kind != "char" else 96)
    config = planning.prepare_device(config.with_values(model={"vocab_size": vocabulary}))
    train, length = config.train, config.train.sequence_length or config.model.block_size
    tokens_per_step = train.batch_size * train.gradient_accumulation_steps * length
    flops = flops_per_token(config.model, length)
    steps = train.max_steps or (train.tokens and -(-train.tokens // tokens_per_step))
    rate = matmul_rate(train.device, Precision(train.precision, train.device).dtype)
    seconds = tokens_per_step * flops / (0.5 * rate)
    expected = config.plan.expected_seconds or (60 * train.minutes if train.minutes else (steps or 0) * seconds)
    parameters = parameter_breakdown(config.model)
    return {
        "source": str(path),
        "preset": config.model.preset,
        "vocab_size": vocabulary,
        "parameters": parameters.total,
        "parameters_without_embeddings": parameters.non_embedding,
        "flops_per_token": flops,
        "tokens_per_step": tokens_per_step,
        "steps": steps,
        "training_tokens": config.plan.train_tokens or None,
        "training_memory_bytes": training_memory(config).total,
        "generation_memory_bytes": inference_memory(config.model, 1, config.model.block_size).total,
        "device": train.device,
        "precision": train.precision,
        "step_seconds": config.plan.step_seconds or seconds,
        "expected_seconds": expected or None,
        "measured": bool(config.plan.step_seconds),
    }


def describe(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """`info` in words, a row a fact."""
    steps, expected = facts["steps"], facts["expected_seconds"]
    rows = [
        (facts["source"], f"{facts['preset']}, vocabulary {facts['vocab_size']:,}"),
        ("parameters", f"{facts['parameters']:,} ({facts['parameters_without_embeddings']:,} outside embeddings)"),
        ("training FLOPs", f"{human_count(facts['flops_per_token'])} a token"),
        ("step", f"{facts['tokens_per_step']:,} tokens, {1000 * facts['step_seconds']:,.0f} ms"),
        ("memory for training", human_bytes(facts["training_memory_bytes"])),
        ("memory for generating", human_bytes(facts["generation_memory_bytes"])),
    ]
    if steps:
        total = steps * facts["tokens_per_step"]
        rows.append(("steps", f"{steps:,}, {human_count(total)} tokens, {total / facts['parameters']:.1f} a parameter"))
    if facts["training_tokens"]:
        share = facts["training_tokens"] / facts["parameters"]
        rows.append(("training text", f"{human_count(facts['training_tokens'])} tokens, {share:.1f} a parameter"))
    if expected:
        how = "as planned" if facts["measured"] else "at half of the machine's matrix-product rate"
        machine = f"{facts['device']}, {facts['precision']}"
        rows.append(("expected time", f"{planning.human_seconds(expected)} on this machine ({machine}), {how}"))
    return rows


def run_name(config: Config) -> str:
    """The name of a run folder: its first source's, without what a file system or a shell could stumble over."""
    stem = Path(config.data.sources[0]).stem if config.data.sources else "run"
    return "".join(c if c.isalnum() or c in "._" else "-" for c in stem).strip("-.") or "run"


def load_config(folder: RunFolder) -> Config:
    return resolve(read_toml(folder.config_path))


# ---- Loading ---------------------------------------------------------------------------------------------------------


def load(
    path: str | Path | None = None, *, checkpoint: str | int = "best", device: str = "auto", say: Say = to_stderr
) -> Run:
    """Open a run, by default the latest in runs/, with the weights of its best checkpoint (or "last", or a step)."""
    folder = RunFolder.open(Path(path) if path else latest_run())
    config = load_config(folder)
    tokenizer = store.load(folder.tokenizer_dir)
    if tokenizer.vocab_size != config.model.vocab_size:
        raise MismatchError(
            f"{folder.path}: the tokenizer has {tokenizer.vocab_size} ids, the model {config.model.vocab_size}"
        )
    saved = folder.load_checkpoint(checkpoint, say, {"model"})
    expected = saved.state["fingerprints"]["tokenizer"]
    tokenizer.check_fingerprint(expected, f"the model in {saved.path}")
    model = GPT(config.model).load_weights(saved.tensors["model"])
    return Run(folder, config, model.to(choose_device(device)).eval(), tokenizer, saved.step)
