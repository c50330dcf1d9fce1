"""What can be set: every section of a run's configuration. The text under a name is its help on the command line."""

import math
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Literal, NamedTuple, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from primegpt.errors import nearest, quoted

# What lies beyond these bounds is a slip of the hand, or meant to do harm. Each is well above what anyone has used, and
# low enough that sums and products of settings stay ordinary numbers; what a machine can hold, the forecast says.
MAX_VOCAB = 2_000_000  # ids: eight times the largest vocabulary in use
MAX_CONTEXT = 2**20  # tokens: the longest contexts of published weights of these families are a million
MAX_WIDTH = 2**16  # of the residual stream, a head, an adapter; the widest model that is known has 2^14.6
MAX_HIDDEN = 2**20  # width of an MLP
MAX_LAYERS = 1_000  # the deepest Transformer that was ever trained (DeepNet, arXiv:2203.00555)
MAX_HEADS = 1_024
MAX_THREADS = 1_024  # cores of the largest machines
MAX_BATCH = 2**16  # windows of a micro-batch
MAX_STEP_TOKENS = 2**28  # of an optimizer step; the largest run that is known has 2^26, and all of a step are in memory
MAX_STEPS = 10**9  # a step a millisecond, for eleven days
MAX_TOKENS = 10**15  # sixty times all the text that a model was ever trained on
MAX_LENGTH = 2**40  # of a text, in bytes or characters: a terabyte
MAX_EPOCHS = 10**6
MAX_MINUTES = 527_040  # a year
MIN_MINUTES = 0.001  # 60 ms: less than the shortest step of any use
MAX_RATE = 10.0  # of learning: above 1 every step of AdamW moves each weight by more than any weight is large
MIN_RATE = 1e-12  # below it fp32 weights do not move
MAX_SONGS = 1_000_000
MAX_NEW_TOKENS = MAX_CONTEXT
MAX_FACTOR = 1e6  # temperature, penalties, scales: beyond it their effect has long been complete
MAX_SEED = 2**63 - 1  # the largest integer that TOML has
MAX_NAME = 255  # characters of a field's, token's or label's name
MAX_TEXT = 100_000  # characters of a prompt or a stop string in the configuration
MAX_LIST = 100_000  # entries of a list, as of sources that a shell has made of `*`


def _usable_place(place: str) -> str:
    if "\0" in place or len(place.encode()) > 4096 or any(len(part.encode()) > 255 for part in place.split("/")):
        raise ValueError("no file can be called so")
    return place


def _usable_name(name: str) -> str:
    if not name.isidentifier():
        raise ValueError("no part can be called so")
    return name


Name = Annotated[str, Field(max_length=MAX_NAME)]
Own = Annotated[Name, AfterValidator(_usable_name)]  # of a part in the file that `extension` names
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Place = Annotated[str, AfterValidator(_usable_place)]


class Section(BaseModel):
    """Base of every section: no unknown keys, no changes after the fact, no NaN; the docstrings are the help texts."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth(cls, value: object, info: ValidationInfo) -> object:
        """Pydantic would take `batch_size = true` for 1."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise ValueError("true/false is not allowed here")
        return value


@cache
def built_in_choices(section: type[Section]) -> dict[str, tuple[str, ...]]:
    """The settings that take a name of an extension too, and what is built in for each."""
    kinds = {name: get_args(field.annotation) for name, field in section.model_fields.items()}
    return {name: get_args(kind[0]) for name, kind in kinds.items() if Own in kind[1:]}


def own_choices(section: Section) -> dict[str, str]:
    """Those of them that are not built in."""
    chosen = ((name, known, getattr(section, name)) for name, known in built_in_choices(type(section)).items())
    return {name: value for name, known, value in chosen if value not in known}


PART_OF = {"attn": "attention", "mlp": "mlp", **dict.fromkeys(("ln_1", "ln_2", "ln_e", "ln_f"), "norm")}


class ModelConfig(Section):
    """The network. Sizes default to GPT-2's 124M; the switches default to GPT-2's block."""

    preset: Literal["gpt2", "llama", "mistral", "qwen2", "qwen3", "prime"] = "gpt2"
    """A named set of the switches below: another model's (all of these run in llama.cpp), or prime (learns fastest)."""
    vocab_size: int = Field(0, ge=0, le=MAX_VOCAB)
    """Number of token ids; filled in from the tokenizer."""
    block_size: int = Field(1024, ge=2, le=MAX_CONTEXT)
    """Longest context, in tokens."""
    n_layer: int = Field(12, ge=1, le=MAX_LAYERS)
    """Number of blocks."""
    n_head: int = Field(12, ge=1, le=MAX_HEADS)
    """Number of query heads."""
    n_kv_head: int | None = Field(None, ge=1, le=MAX_HEADS)
    """Number of key/value heads (grouped-query attention); n_head when unset."""
    n_embd: int = Field(768, ge=1, le=MAX_WIDTH)
    """Width of the residual stream."""
    head_dim: int | None = Field(None, ge=1, le=MAX_WIDTH)
    """Width of one head; n_embd / n_head when unset."""
    intermediate_size: int | None = Field(None, ge=1, le=MAX_HIDDEN)
    """Hidden width of the MLP; 4 n_embd when unset (8/3 n_embd, rounded up to 64, for swiglu)."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout probability in embeddings, attention and residual branches."""
    bias: bool = True
    """Biases in linear layers and layer norms."""
    attention_bias: Literal["none", "qkv", "all"] | None = None
    """Biases in attention: none, qkv (of queries, keys and values alone) or all; as model.bias has it when unset."""
    attention: Literal["softmax"] | Own = "softmax"
    """Kind of attention."""
    norm: Literal["layernorm", "rmsnorm"] | Own = "layernorm"
    """Normalisation before each branch and before the head."""
    norm_gain: bool = True
    """Whether norms have a learnt gain."""
    norm_eps: float = Field(1e-5, ge=1e-15, le=1.0)
    """Added to the variance inside norms."""
    position: Literal["learned", "rope"] = "learned"
    """Absolute learnt position embeddings, or rotary ones."""
    rope_theta: float = Field(10000.0, ge=1.0, le=1e15)
    """Base of the rotary wavelengths."""
    rope_type: Literal["default", "linear", "llama3"] = "default"
    """Stretch of rotary positions for a longer context: none, linear (all alike), or llama3 (slow ones alone)."""
    rope_factor: float = Field(8.0, ge=1.0, le=MAX_FACTOR)
    """How many times longer the stretched wavelengths are."""
    rope_low_freq_factor: float = Field(1.0, ge=0.01, le=MAX_FACTOR)
    """llama3: what turns less often than this in the original context is stretched whole."""
    rope_high_freq_factor: float = Field(4.0, ge=0.01, le=MAX_FACTOR)
    """llama3: what turns more often than this in the original context is not stretched."""
    rope_original_context: int = Field(8192, ge=2, le=MAX_CONTEXT)
    """llama3: the context, in tokens, before it was stretched."""
    mlp: Literal["gelu", "swiglu", "relu2"] | Own = "gelu"
    """Kind of MLP: GELU, SwiGLU (three matrices) or squared ReLU."""
    qk_norm: bool = False
    """RMS-normalise queries and keys, head by head."""
    embedding_norm: bool = False
    """Normalise the embeddings too, before the first block."""
    logit_softcap: float | None = Field(None, ge=0.01, le=MAX_FACTOR)
    """Squash logits to (-c, c) by c * tanh(x / c); unset leaves them as they are."""
    tie_embeddings: bool = True
    """Use the token embedding as the output head too."""
    residual_init: Literal["scaled", "zero"] = "scaled"
    """Start of the projections that write into the residual stream: GPT-2's 1/sqrt(2 n_layer), or zero."""
    extension: Name = ""
    """SHA-256 of the file that parts of your own are in; filled in from it."""
    extension_parameters: dict[str, Annotated[int, Field(ge=0, le=2**48)]] = Field({}, max_length=3)
    """Learnt numbers in one attention, mlp or norm of your own, which no formula knows; filled in likewise."""

    @property
    def own(self) -> dict[str, str]:
        """The parts of the network that are of an extension, by kind."""
        return own_choices(self)

    def own_kind(self, name: str) -> str | None:
        """Of which of these a module or a weight is, by its name in the model (`h.0.ln_1`); None for all others."""
        kinds = (PART_OF[word] for word in name.split(".") if word in PART_OF)
        return next((kind for kind in kinds if kind in self.own), None)

    @property
    def biased_attention(self) -> Literal["none", "qkv", "all"]:
        """Which linear layers of attention have biases."""
        return self.attention_bias or ("all" if self.bias else "none")

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def head_size(self) -> int:
        return self.head_dim or self.n_embd // self.n_head

    @property
    def mlp_size(self) -> int:
        if self.intermediate_size:
            return self.intermediate_size
        return 64 * math.ceil(self.n_embd * 8 / 3 / 64) if self.mlp == "swiglu" else 4 * self.n_embd

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: a multiple of 64 (50,257 → 50,304) for the matrix units; padding is never output."""
        return 64 * math.ceil(self.vocab_size / 64)

    def problems(self) -> Iterator[str]:
        """What is wrong between fields, each with its remedy."""
        if self.head_dim is None and self.n_embd % self.n_head:
            yield (
                f"model.n_embd = {self.n_embd} is not divisible by model.n_head = {self.n_head}; "
                f"make it a multiple, or set model.head_dim"
            )
        if self.n_head % self.kv_heads:
            yield f"model.n_head = {self.n_head} is not a multiple of model.n_kv_head = {self.n_kv_head}"
        if self.position == "rope" and self.head_size % 2:
            yield f"model.head_dim = {self.head_size} is odd; rotary positions need an even one"
        if self.rope_type == "llama3" and self.rope_low_freq_factor >= self.rope_high_freq_factor:
            yield (
                f"model.rope_low_freq_factor = {self.rope_low_freq_factor} is not below "
                f"model.rope_high_freq_factor = {self.rope_high_freq_factor}"
            )


def _apart(values: object) -> object:
    """The words of a text, or of all texts of a list: a command line gives "wandb mlflow" as a list of one."""
    if isinstance(values, str):
        return tuple(values.split())
    if isinstance(values, list | tuple):
        return tuple(word for value in values for word in (value.split() if isinstance(value, str) else (value,)))
    return values


# A command line has no lists: --tokenizer.special_tokens.control "<song> </song>". In a list a name keeps its spaces.
Names = Annotated[tuple[Name, ...], BeforeValidator(lambda names: names.split() if isinstance(names, str) else names)]
Words = BeforeValidator(_apart)  # for what never holds a space
Tracker = Literal["wandb", "trackio", "tensorboard", "mlflow"]


# One name, or several.
AnyFieldNames = Annotated[
    tuple[Name, ...],
    BeforeValidator(lambda names: (names,) if isinstance(names, str) else names),
    Field(max_length=20),
]
FieldNames = Annotated[AnyFieldNames, Field(min_length=1)]

LEARNT = {"kind", "vocab_size"}  # keys of a tokenizer that is yet to be learnt


class TokenizerKind(NamedTuple):
    """What is known of a kind of tokenizer before there is one. The classes are in tokenizers/store.py."""

    vocab_size: int | None
    """Ids with special tokens, where none are asked for; None: as many as the text or ready files have."""
    assumed: int = 0
    """Ids beside the user's own where `vocab_size` is None, to forecast with."""
    learnt: bool = True
    """Whether there is anything to learn from a text."""
    unit: str = "token"
    """What a loss is counted by: "character" where every character is an id."""


LearntKind = Literal["char", "bpe", "sentencepiece"]
TOKENIZER_KINDS = {
    "char": TokenizerKind(None, assumed=96, unit="character"),  # about as many as English has
    "bpe": TokenizerKind(4096),
    "sentencepiece": TokenizerKind(8000),
    "gpt2": TokenizerKind(None, assumed=50_257, learnt=False),
    "imported": TokenizerKind(None, assumed=128_256, learnt=False),
}


class TokenizerConfig(Section):
    """How text becomes ids."""

    kind: Literal[LearntKind, "gpt2", "imported"] = "bpe"
    """char: one id a character. bpe: byte pairs, sentencepiece: pieces of words, both learnt. gpt2: GPT-2's own.
    imported: another's, from its files (path)."""
    vocab_size: int | None = Field(None, ge=2, le=MAX_VOCAB)
    """Size of a learnt vocabulary with special tokens; unset, 4,096 for bpe, 8,000 for sentencepiece, all for char."""
    special_tokens: dict[str, Names] = {}
    """Special tokens of your own, by kind: a list of names, or one string with spaces between them."""
    path: Place | None = None
    """Use the tokenizer in this folder (a run's, or another's) or file (tokenizer.json, tokenizer.model, tekken.json,
    *.tiktoken, *.gguf) instead of training one; it has a kind already."""

    @property
    def learnt_vocab_size(self) -> int | None:
        """What to train for, or None where the text, or ready files, say how many ids there are."""
        return (self.vocab_size or self.facts.vocab_size) if self.facts.learnt else None

    @property
    def facts(self) -> TokenizerKind:
        """What is known of the kind."""
        return TOKENIZER_KINDS[self.kind]


class SourceConfig(Section):
    """How one of several sources is read, where that is not as [data] says for all of them."""

    template: Literal["text"] | None = None
    """text: plain text among records, which all have the template of [data]."""
    text_field: Name | None = None
    """The field of a record that holds the text."""
    prompt_field: AnyFieldNames = ()
    """The field of a record that holds the instruction, or several."""
    response_field: Name | None = None
    """The field that holds the answer."""
    genre_field: Name | None = None
    """The field of a song's genre."""
    emotion_field: Name | None = None
    """The field of a song's emotion."""
    genre: Name | None = None
    """The genre of songs that do not say theirs."""
    emotion: Name | None = None
    """The emotion of songs that do not say theirs."""


class ReadingConfig(Section):
    """Where the text comes from, and how it is read: the settings of every command that reads a source."""

    sources: tuple[Place, ...] = Field((), max_length=MAX_LIST)
    """Files, folders, globs, `-` for standard input, `hf:NAME`, the name of a fetched corpus, or `songbook`."""
    source: dict[str, SourceConfig] = Field({}, max_length=MAX_LIST)
    """How one source is read, if otherwise than the rest, by its name or number: --data.source.2.text_field lyrics."""
    text_field: Name = "text"
    """The field of a record (.jsonl, .csv, .parquet, data set) that holds the text."""
    songs: int = Field(8000, ge=1, le=MAX_SONGS)
    """Size of the built-in songbook when it is a source."""
    html: Literal["keep", "text"] = "keep"
    """text: remove tags and scripts, resolve entities (the extra [data])."""
    whitespace: Literal["keep", "normalize"] = "keep"
    """normalize: line ends \\n, one space for several, no space at the ends of lines, one empty line for several."""
    non_ascii: Literal["keep", "strip", "drop"] = "keep"
    """What to do about characters beyond ASCII: strip them, or drop the documents that have any."""
    min_length: int | None = Field(None, ge=1, le=MAX_LENGTH)
    """Drop documents of fewer characters."""
    max_length: int | None = Field(None, ge=1, le=MAX_LENGTH)
    """Drop documents of more characters."""
    duplicates: Literal["keep", "exact", "near"] = "keep"
    """exact: drop documents that were there before, and lines of long ones. near: those much like an earlier one too,
    and paragraphs (the extra [data])."""
    similarity: float = Field(0.7, gt=0.0, le=1.0)
    """For duplicates = near: the share of five-word spans in common that makes two documents copies."""
    max_bytes: int | None = Field(None, ge=1, le=MAX_LENGTH)
    """Take the first so many bytes of the text, whatever source they are in; of a template's records those that fit."""
    max_record_bytes: int = Field(128_000_000, ge=1, le=MAX_LENGTH)
    """Refuse records that are larger: each is held in memory whole. Plain text is read in parts, however long it is."""
    template: Literal["text", "song", "response", "chat", "preference"] = "text"
    """text: a stream of documents. song, response, chat: one record a row, supervised on its answer only. preference:
    pairs of answers (prompt, chosen, rejected), laid out as the tokenizer's control tokens have it."""
    prompt_field: FieldNames = ("prompt",)
    """The field of a record that holds the instruction, or several, put together in this order (song, response)."""
    response_field: Name | None = None
    """The field that holds the answer; `lyrics` for songs, `response` (or Alpaca's `output` …) when unset."""
    genre_field: Name = "genre"
    """The field of a song's genre; records without it get `genre`."""
    emotion_field: Name = "emotion"
    """The field of a song's emotion; records without it get `emotion`."""
    genre: Name | None = None
    """The genre of songs that do not say theirs; `random` draws one for each, by a fixed seed."""
    emotion: Name | None = None
    """The emotion of songs that do not say theirs; `random` draws one for each, by a fixed seed."""
    structure: Literal["parse", "keep"] = "parse"
    """parse: a line of the lyrics that is a section header, like [Chorus], becomes its structure token."""

    def of(self, group: int) -> Self:
        """What holds for source number `group` (from 0)."""
        named = (self.sources[group], str(group + 1)) if group < len(self.sources) else ()
        own = next((self.source[name] for name in named if name in self.source), None)
        return self.model_copy(update={name: value for name, value in own or () if value})

    def problems(self) -> Iterator[str]:
        """What is wrong between fields, each with its remedy."""
        numbers = [str(number) for number in range(1, len(self.sources) + 1)]
        for name in self.source if self.sources else ():
            if name not in self.sources and name not in numbers:
                which = f"neither a source nor the number of one (1 to {len(self.sources)})"
                yield f"data.source has {quoted(name)}, which is {which}; {nearest(name, self.sources)}"
            if name in numbers and self.sources[int(name) - 1] in self.source:
                yield f"data.source has {self.sources[int(name) - 1]!r} twice, by its name and as {name}; leave one out"
        if self.min_length and self.max_length and self.min_length > self.max_length:
            yield f"data.min_length = {self.min_length} is above data.max_length = {self.max_length}; nothing is left"


class DataConfig(ReadingConfig):
    """The text, and how it is learnt: what is held out, in which windows and shares it is seen, what is asked for."""

    weights: tuple[Annotated[float, Field(ge=1 / MAX_FACTOR, le=MAX_FACTOR)], ...] = Field((), max_length=MAX_LIST)
    """How often each source is drawn from, as [3, 1]; when unset, all text is one, and is seen equally often."""
    val_fraction: float = Field(0.1, gt=0.0, lt=1.0)
    """Share held out for validation, of every source: the ends of up to 50 texts, whole documents of more."""
    val_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    """Validation targets used while training, spread over the text; all of them at the end, and when unset."""
    stride: int | None = Field(None, ge=1, le=MAX_CONTEXT)
    """Distance between the starts of training windows; sequence_length (every token once an epoch) when unset."""
    isolate_documents: bool = False
    """Keep attention inside a document when a window holds several."""
    prompt_dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """How often an instruction is left out in training, so that a model also writes without one (song, response)."""
    mask_prompt: bool = True
    """Train on the answer of a record alone; false: on all of it. Validation asks for the answer either way."""
    pack: bool | Literal["auto"] = "auto"
    """Let the records of a micro-batch share one row, each read as if it were alone; auto: where that saves a tenth."""
    drop_labels: bool = False
    """Leave genre and emotion out together with the instruction."""
    base_text: Place | None = None
    """For fine-tuning: a text whose loss is shown before and after; the base run's own validation text when unset."""

    def problems(self) -> Iterator[str]:
        """What is wrong between fields, each with its remedy."""
        yield from super().problems()
        if self.weights and self.sources and len(self.weights) != len(self.sources):
            yield f"data.weights has {len(self.weights)} numbers for {len(self.sources)} sources; give one for each"


# Keys of a record's layout, which a model learns with its text, and of the labels of songs that do not say theirs.
LAYOUT = ("template", "prompt_field", "response_field", "genre_field", "emotion_field", "structure", "drop_labels")
LABELS = ("genre", "emotion")

PREFERENCES = ("dpo", "ipo", "simpo")  # objectives of pairs, which data.template = "preference" lays out

BUDGETS = {"max_steps", "minutes", "tokens", "epochs"}  # keys that say how long to train


class TrainConfig(Section):
    """The optimisation. A step consumes batch_size * gradient_accumulation_steps * sequence_length tokens."""

    batch_size: int = Field(12, ge=1, le=MAX_BATCH)
    """Windows in one micro-batch."""
    gradient_accumulation_steps: int = Field(1, ge=1, le=MAX_STEP_TOKENS)
    """Micro-batches in one optimizer step."""
    sequence_length: int | None = Field(None, ge=1, le=MAX_CONTEXT)
    """Length of a training window; model.block_size when unset, never more."""
    max_steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    """Optimizer steps in all. One budget at most: max_steps, minutes, tokens or epochs."""
    minutes: float | None = Field(None, ge=MIN_MINUTES, le=MAX_MINUTES)
    """Wall-clock budget of the whole command; the steps that fit are measured before the first one."""
    tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    """Training tokens in all."""
    epochs: float | None = Field(None, ge=1 / MAX_EPOCHS, le=MAX_EPOCHS)
    """Passes over the training text."""
    objective: Literal["cross_entropy", "dpo", "ipo", "simpo"] | Own = "cross_entropy"
    """What a step minimises: cross_entropy of the next token; dpo, ipo, simpo: of pairs of answers, for fine-tuning."""
    beta: float = Field(0.1, ge=1 / MAX_FACTOR, le=MAX_FACTOR)
    """dpo, ipo: how costly it is to move away from the base; simpo: the scale of its rewards."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=0.5)
    """dpo, simpo: the probability that a pair's answers are the wrong way round."""
    simpo_gamma: float = Field(0.5, ge=0.0, le=MAX_FACTOR)
    """simpo: by how much the reward of the chosen answer should be the larger one."""
    sft_weight: float = Field(0.0, ge=0.0, le=MAX_FACTOR)
    """dpo, ipo, simpo: weight of the chosen answer's own loss per token, so that it stays likely."""
    optimizer: Literal["adamw", "muon"] | Own = "adamw"
    """adamw for everything, or muon for the matrices inside blocks and adamw for the rest."""
    learning_rate: float = Field(6e-4, ge=MIN_RATE, le=MAX_RATE)
    """Peak learning rate of AdamW."""
    head_learning_rate: float | None = Field(None, ge=MIN_RATE, le=MAX_RATE)
    """Peak rate of the head where it is not tied (model.tie_embeddings false); learning_rate when unset."""
    muon_learning_rate: float = Field(0.02, ge=MIN_RATE, le=MAX_RATE)
    """Peak learning rate of Muon, when it is the optimizer."""
    min_lr: float | None = Field(None, ge=0.0, le=MAX_RATE)
    """Where learning_rate ends (the others in proportion); a tenth of the peak when unset (0 for linear, wsd)."""
    warmup_steps: int = Field(0, ge=0, le=MAX_STEPS)
    """Steps of linear warm-up; a plan takes at most half of its steps for it."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] | Own = "cosine"
    """Shape of the learning rate after the warm-up; wsd stays flat, then falls over the last 20%."""
    weight_decay: float = Field(0.1, ge=0.0, le=10.0)
    """Decoupled decay of matrices; vectors (biases, gains) are never decayed."""
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    """AdamW's first moment decay."""
    beta2: float = Field(0.95, ge=0.0, lt=1.0)
    """AdamW's second moment decay."""
    grad_clip: float = Field(1.0, ge=0.0, le=MAX_FACTOR)
    """Largest norm of the whole gradient; 0 turns clipping off."""
    eval_interval: int | None = Field(None, ge=1, le=MAX_STEPS)
    """Steps between evaluations; about a tenth of the run when unset."""
    early_evaluations: Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_STEPS)], ...] | None, Words] = Field(
        None, max_length=MAX_LIST
    )
    """Steps of cheap evaluations beside those; 1, 2, 5, 10 … before the first when unset, as far as they take 1.5% of
    the time; 0: none."""
    sample_interval: int | None = Field(None, ge=1, le=MAX_STEPS)
    """Steps between samples (also drawn at the start and the end); about a quarter of the run when unset."""
    sample_prompts: tuple[Text, ...] = Field((), max_length=1_000)
    """Prompts of the samples; chosen from the validation text when empty."""
    checkpoint_interval: int | None = Field(None, ge=1, le=MAX_STEPS)
    """Steps between checkpoints, beside the one before each evaluation; as eval_interval when unset."""
    keep_checkpoints: Annotated[int, Field(ge=1, le=MAX_STEPS)] | Literal["milestones"] | None = None
    """How many of the last checkpoints stay (3), or milestones: the weights of log-spaced steps too (small models)."""
    async_checkpoint: bool = False
    """Write checkpoints while the next steps run, which wait only until the tensors are copied in memory."""
    log_interval: int | None = Field(None, ge=1, le=MAX_STEPS)
    """Steps between lines of metrics.jsonl; about a five-hundredth of the run when unset."""
    track: Annotated[tuple[Tracker, ...], Words] = ()
    """Send the lines of metrics.jsonl to these trackers too (each an extra: [wandb], [mlflow] ...)."""
    average: float = Field(0.0, ge=0.0, le=0.5)
    """Judge, sample and keep a running mean of the weights, this share of the steps old; 0: the weights themselves."""
    patience: int | None = Field(None, ge=1, le=MAX_STEPS)
    """Stop after this many evaluations without a better validation loss."""
    seed: int = Field(1337, ge=0, le=MAX_SEED)
    """Seed of every random stream."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """bf16 and fp16 run matrix products in 16 bits under autocast; weights stay fp32."""
    compile: bool = False
    """torch.compile the model; unless said, for plain text where the minutes repay it."""
    attention: Literal["auto", "sdpa", "explicit"] = "auto"
    """Which implementation of the same attention; auto measures both."""
    activation_checkpointing: bool = False
    """Recompute blocks in the backward pass: less memory, about a third more time."""
    threads: int | None = Field(None, ge=1, le=MAX_THREADS)
    """CPU threads; when unset as many as there are cores or, with a time budget, as steps are fastest with."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """What several processes started by torchrun share. ddp: the batch; fsdp: weights and optimizer state too."""
    rank_timeout: float = Field(600.0, ge=1.0, le=1e6)
    """Seconds after which a process that the others wait for counts as hung."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier(cls, values: object) -> object:
        """`tensorboard = true`, as runs of earlier versions have it, is a tracker now."""
        if not isinstance(values, dict) or not isinstance(values.get("tensorboard"), bool):
            return values
        kept = {key: value for key, value in values.items() if key != "tensorboard"}
        track = _apart(values.get("track", ()))
        if values["tensorboard"] and isinstance(track, tuple) and "tensorboard" not in track:
            kept["track"] = (*track, "tensorboard")
        return kept

    def problems(self) -> Iterator[str]:
        """What is wrong between fields, each with its remedy."""
        budgets = [name for name in TrainConfig.model_fields if name in BUDGETS and getattr(self, name) is not None]
        if len(budgets) > 1:
            yield f"train.{' and train.'.join(budgets)} are budgets; give only one of them"
        if self.min_lr is not None and self.min_lr > self.learning_rate:
            yield f"train.min_lr = {self.min_lr} is above train.learning_rate = {self.learning_rate}"


class GenerateConfig(Section):
    """Defaults of generation."""

    max_new_tokens: int = Field(200, ge=1, le=MAX_NEW_TOKENS)
    """Tokens to add."""
    temperature: float = Field(0.9, ge=0.0, le=MAX_FACTOR)
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = Field(200, ge=0, le=2**31)
    """Sample among the k likeliest only; 0 for all."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Sample among the fewest tokens whose probabilities reach p."""
    min_p: float = Field(0.0, ge=0.0, le=1.0)
    """Sample among tokens with at least this share of the likeliest one's probability."""
    repetition_penalty: float = Field(1.0, ge=1 / MAX_FACTOR, le=MAX_FACTOR)
    """Above 1, what already stands in the text becomes less likely."""
    decay_trigger: Name = "[chorus]"
    """Once this token stands in the text, the temperature falls with every token; without it, no effect."""
    temperature_decay: float = Field(0.98, gt=0.0, le=1.0)
    """The temperature is then multiplied by this at every token."""
    temperature_floor: float = Field(0.5, ge=0.0, le=MAX_FACTOR)
    """The lowest temperature that this leads to."""
    stop_strings: tuple[Annotated[Text, Field(min_length=1)], ...] = Field((), max_length=1_000)
    """A text that ends the writing, and is not part of what is returned; there may be several."""
    num_beams: int = Field(1, ge=1, le=1_000)
    """Above 1: beam search, which looks for the likeliest text; nothing is drawn then."""
    length_penalty: float = Field(1.0, ge=-100.0, le=100.0)
    """Beam search divides a text's log-probability by its length to this power: above 0 favours long texts."""
    early_stopping: bool = False
    """End beam search once as many texts as beams are complete, though better ones might follow."""
    precision: Literal["auto", "fp32", "bf16", "int8", "int4"] = "auto"
    """Number format of the weights while writing. auto: bf16 for large models where the machine is fast in it."""
    compile: bool = False
    """Compile the step of one token: starts some seconds later, writes faster. On CPUs; needs a C++ compiler."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Seed of sampling."""
    start_document: bool | None = None
    """Begin every prompt with the end-of-text id, as documents did in training; set by training."""


DECAY = ("decay_trigger", "temperature_decay", "temperature_floor")
SAMPLING = ("temperature", "top_k", "top_p", "min_p", *DECAY)  # say which token is drawn: nothing to beam search

LORA_TARGETS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_gate", "mlp.c_proj")


class LoRAConfig(Section):
    """Low-rank adapters in place of training every weight: what is adapted, and how much can change."""

    rank: int = Field(0, ge=0, le=MAX_WIDTH)
    """Rank of each change; 0: no adapters, every weight is trained."""
    alpha: float = Field(16.0, ge=1 / MAX_FACTOR, le=MAX_FACTOR)
    """The change is scaled by alpha / rank, so that a learning rate fits every rank."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout probability of what goes into an adapter."""
    targets: Annotated[tuple[Name, ...], Words, Field(min_length=1)] = LORA_TARGETS
    """Linear layers that are adapted; those that a model does not have (mlp.c_gate in GPT-2) are passed over."""

    def problems(self) -> Iterator[str]:
        """What is wrong with the targets, each with its remedy."""
        for target in self.targets:
            if target not in LORA_TARGETS:
                yield f"lora.targets: {target!r} is no linear layer of a block; {nearest(target, LORA_TARGETS)}"

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class ReinforceConfig(Section):
    """Learning from rewards: what a step writes, and how its rewards move the model. The names are TRL's."""

    reward: tuple[Name, ...] = Field((), max_length=100)
    """What completions are judged by: names, with weights or without (0.5*rhyme), or FILE.py:function; their sum."""
    num_generations: int = Field(8, ge=2, le=MAX_BATCH)
    """Completions of each prompt, a group: each is judged against the others."""
    prompts_per_step: int = Field(8, ge=1, le=MAX_BATCH)
    """Prompts that a step writes to."""
    max_new_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS)
    """Tokens of a completion, the stop token included; unset, half of model.block_size and at most 256."""
    temperature: float = Field(1.0, ge=0.01, le=MAX_FACTOR)
    """Divides the logits, of what is drawn and of what learns alike."""
    loss_type: Literal["grpo", "dr_grpo", "dapo"] = "dapo"
    """What the loss is a mean over: grpo: completions, each of its tokens; dr_grpo: completions, each of
    max_new_tokens; dapo: the tokens of all completions."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What a reward's distance from its group's mean is divided by: the group's spread, the step's, or nothing."""
    epsilon: float = Field(0.2, ge=0.0, lt=1.0)
    """How far below 1 the ratio of new to old probability counts."""
    epsilon_high: float | None = Field(None, ge=0.0, le=MAX_FACTOR)
    """How far above 1; as epsilon when unset."""
    beta: float = Field(0.0, ge=0.0, le=MAX_FACTOR)
    """Weight of the KL divergence from the model that it starts from; 0: that one is not asked."""
    use_bias_correction_kl: bool = True
    """Weigh the divergence's estimate by the ratio of new to old probability, so that its gradient is the true one."""
    num_iterations: int = Field(1, ge=1, le=1_000)
    """Steps that learn from the same completions."""
    mask_truncated_completions: bool = False
    """Learn nothing from completions that were cut at max_new_tokens."""
    val_prompts: int = Field(64, ge=1, le=MAX_BATCH)
    """Held-out prompts of an evaluation, at most; data.val_fraction are held out."""

    @property
    def on(self) -> bool:
        return bool(self.reward)

    @property
    def rows_per_step(self) -> int:
        """Completions that a step writes."""
        return self.prompts_per_step * self.num_generations

    @property
    def clip(self) -> tuple[float, float]:
        """Between what the ratio of new to old probability counts."""
        return 1 - self.epsilon, 1 + (self.epsilon if self.epsilon_high is None else self.epsilon_high)


class PlanRecord(Section):
    """What was measured or chosen before step 1. Written by training, read by resume; not meant for editing."""

    run: Name = ""
    """Which run this is; its checkpoints carry it too. Drawn when training begins."""
    base: Name = ""
    """Of a fine-tuned run: the fingerprint of what lies in base/."""
    device: Name = ""
    threads: int = Field(0, ge=0, le=MAX_THREADS)
    train_tokens: int = Field(0, ge=0, le=MAX_TOKENS)
    """Tokens of the training split."""
    step_seconds: float = Field(0.0, ge=0.0)
    """Measured time of one optimizer step."""
    peak_flops: float = Field(0.0, ge=0.0)
    """Measured rate of matrix products, the 100% of `mfu`."""
    training_seconds: float = Field(0.0, ge=0.0)
    """Time that training may take, when the budget is one of time."""
    closing_seconds: float = Field(0.0, ge=0.0)
    """Forecast of what follows it: the best checkpoint on all the held-out text, and what fine-tuning has forgotten."""
    expected_seconds: float = Field(0.0, ge=0.0)
    """Forecast of all that follows the plan, evaluations and samples included."""
    reread_targets: int = Field(100_000, ge=0, le=MAX_TOKENS)
    """Targets of the text that a base model has learnt, of which fine-tuning tells how much is forgotten."""
    expected_memory_mb: float = Field(0.0, ge=0.0)
    """Forecast of the growth of memory by model, optimizer and activations."""
    chosen: tuple[Name, ...] = Field((), max_length=MAX_LIST)
    """What was not asked for and may change on the way: intervals in steps, where their number does; threads."""
    lengths: tuple[Annotated[int, Field(ge=1, le=MAX_TOKENS)], ...] = Field((), max_length=MAX_LIST)
    """Batches of records are padded to the next of these, in tokens: each of them takes memory for kernels."""
    packed_lengths: tuple[Annotated[int, Field(ge=1, le=MAX_TOKENS)], ...] = Field((), max_length=MAX_LIST)
    """Rows that records share are filled up to the next of these, in tokens; none: one record a row."""
    padding: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the tokens of batches that is padding, or asked for by nobody, with one record a row."""
    packed_padding: float = Field(0.0, ge=0.0, le=1.0)
    """The same where records share rows."""
    most_steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    """Steps that a time budget is not used up beyond: so many passes over the text."""
    why: Text = ""
    """Why network and steps are what they are, where nothing was asked for but minutes; in a line, as printed."""
    notes: tuple[Text, ...] = Field((), max_length=MAX_LIST)
    """Choices in words, as printed."""
    warnings: tuple[Text, ...] = Field((), max_length=MAX_LIST)
    """What to know before the time is spent, as printed."""
