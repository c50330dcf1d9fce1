"""What can be set: every section of a run's configuration. The text under a name is its help on the command line."""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from primegpt.errors import nearest


class Section(BaseModel):
    """Base of every section: no unknown keys, no changes after the fact, no NaN; the docstrings are the help texts."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )


class ModelConfig(Section):
    """The network. Sizes default to GPT-2's 124M; the switches default to GPT-2's block."""

    preset: Literal["gpt2", "qwen3", "prime"] = "gpt2"
    """A named set of the switches below: gpt2, qwen3 (these two export), or prime (learns fastest)."""
    vocab_size: int = Field(0, ge=0)
    """Number of token ids; filled in from the tokenizer."""
    block_size: int = Field(1024, ge=2)
    """Longest context, in tokens."""
    n_layer: int = Field(12, ge=1)
    """Number of blocks."""
    n_head: int = Field(12, ge=1)
    """Number of query heads."""
    n_kv_head: int | None = Field(None, ge=1)
    """Number of key/value heads (grouped-query attention); n_head when unset."""
    n_embd: int = Field(768, ge=1)
    """Width of the residual stream."""
    head_dim: int | None = Field(None, ge=1)
    """Width of one head; n_embd / n_head when unset."""
    intermediate_size: int | None = Field(None, ge=1)
    """Hidden width of the MLP; 4 n_embd when unset (8/3 n_embd, rounded up to 64, for swiglu)."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout probability in embeddings, attention and residual branches."""
    bias: bool = True
    """Biases in linear layers and layer norms."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Normalisation before each branch and before the head."""
    norm_gain: bool = True
    """Whether norms have a learnt gain."""
    norm_eps: float = Field(1e-5, gt=0.0)
    """Added to the variance inside norms."""
    position: Literal["learned", "rope"] = "learned"
    """Absolute learnt position embeddings, or rotary ones."""
    rope_theta: float = Field(10000.0, gt=0.0)
    """Base of the rotary wavelengths."""
    mlp: Literal["gelu", "swiglu", "relu2"] = "gelu"
    """Kind of MLP: GELU, SwiGLU (three matrices) or squared ReLU."""
    qk_norm: bool = False
    """RMS-normalise queries and keys, head by head."""
    embedding_norm: bool = False
    """Normalise the embeddings too, before the first block."""
    logit_softcap: float | None = Field(None, gt=0.0)
    """Squash logits to (-c, c) by c * tanh(x / c); unset leaves them as they are."""
    tie_embeddings: bool = True
    """Use the token embedding as the output head too."""
    residual_init: Literal["scaled", "zero"] = "scaled"
    """Start of the projections that write into the residual stream: GPT-2's 1/sqrt(2 n_layer), or zero."""

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


# A command line has no lists: --tokenizer.special_tokens.control "<song> </song>".
Names = Annotated[tuple[str, ...], BeforeValidator(lambda names: names.split() if isinstance(names, str) else names)]


LEARNT = {"kind", "vocab_size"}  # keys of a tokenizer that is yet to be learnt


class TokenizerConfig(Section):
    """How text becomes ids."""

    kind: Literal["char", "bpe", "sentencepiece", "gpt2"] = "bpe"
    """char: one id a character. bpe: byte pairs, sentencepiece: pieces of words, both learnt. gpt2: GPT-2's own."""
    vocab_size: int | None = Field(None, ge=2)
    """Size of a learnt vocabulary, special tokens included; 4,096 for bpe and 8,000 for sentencepiece when unset."""
    special_tokens: dict[str, Names] = {}
    """Special tokens of your own, by kind: a list of names, or one string with spaces between them."""
    path: str | None = None
    """Use the tokenizer in this folder (of a run, or GPT-2's files) instead of training one; it has a kind already."""

    @property
    def learnt_vocab_size(self) -> int | None:
        """What to train for, or None for the kinds whose text, or whose files, say how many ids there are."""
        default = {"bpe": 4096, "sentencepiece": 8000}.get(self.kind)
        return default and (self.vocab_size or default)


class DataConfig(Section):
    """Where the text comes from and how it is cut into training windows."""

    sources: tuple[str, ...] = ()
    """Files, folders, globs, `-` for standard input, `hf:NAME`, the name of a fetched corpus, or `songbook`."""
    weights: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """How often each source is drawn from, as [3, 1]; when unset, all text is one, and is seen equally often."""
    text_field: str = "text"
    """The field of a record (.jsonl, .csv, .parquet, data set) that holds the text."""
    songs: int = Field(8000, ge=1)
    """Size of the built-in songbook when it is a source."""
    html: Literal["keep", "text"] = "keep"
    """text: remove tags and scripts, resolve entities (the extra [data])."""
    whitespace: Literal["keep", "normalize"] = "keep"
    """normalize: line ends \\n, one space for several, no space at the ends of lines, one empty line for several."""
    non_ascii: Literal["keep", "strip", "drop"] = "keep"
    """What to do about characters beyond ASCII: strip them, or drop the documents that have any."""
    min_length: int | None = Field(None, ge=1)
    """Drop documents of fewer characters."""
    max_length: int | None = Field(None, ge=1)
    """Drop documents of more characters."""
    duplicates: Literal["keep", "exact", "near"] = "keep"
    """exact: drop documents that were there before. near: those much like an earlier one too (the extra [data])."""
    similarity: float = Field(0.7, gt=0.0, le=1.0)
    """For duplicates = near: the share of five-word spans in common that makes two documents copies."""
    val_fraction: float = Field(0.1, gt=0.0, lt=1.0)
    """Share held out for validation: whole documents, or the last part of a single one."""
    max_bytes: int | None = Field(None, ge=1)
    """Read no more than about this much text of the sources: the first so many bytes."""
    val_tokens: int | None = Field(None, ge=1)
    """Validation targets used while training (the first ones); all of them at the end, and when unset."""
    stride: int | None = Field(None, ge=1)
    """Distance between the starts of training windows; sequence_length (every token once an epoch) when unset."""
    isolate_documents: bool = False
    """Keep attention inside a document when a window holds several."""
    template: Literal["text", "song", "response", "chat"] = "text"
    """text: a stream of documents. song, response, chat: one record a row, supervised on its answer only."""
    prompt_field: str = "prompt"
    """The field of a record that holds the instruction (song, response)."""
    response_field: str | None = None
    """The field that holds the answer; `lyrics` for songs, `response` for responses, when unset."""
    genre_field: str = "genre"
    """The field of a song's genre; records without it get `genre`."""
    emotion_field: str = "emotion"
    """The field of a song's emotion; records without it get `emotion`."""
    genre: str | None = None
    """The genre of songs that do not say theirs; `random` draws one for each, by a fixed seed."""
    emotion: str | None = None
    """The emotion of songs that do not say theirs; `random` draws one for each, by a fixed seed."""
    structure: Literal["parse", "keep"] = "parse"
    """parse: a line of the lyrics that is a section header, like [Chorus], becomes its structure token."""
    prompt_dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """How often an instruction is left out in training, so that a model also writes without one (song, response)."""
    mask_prompt: bool = True
    """Train on the answer of a record alone; false: on all of it. Validation asks for the answer either way."""
    drop_labels: bool = False
    """Leave genre and emotion out together with the instruction."""
    base_text: str | None = None
    """For fine-tuning: a text whose loss is told before and after; the base run's own validation text when unset."""

    def problems(self) -> Iterator[str]:
        """What is wrong between fields, each with its remedy."""
        if self.min_length and self.max_length and self.min_length > self.max_length:
            yield f"data.min_length = {self.min_length} is above data.max_length = {self.max_length}; nothing is left"
        if self.weights and self.sources and len(self.weights) != len(self.sources):
            yield f"data.weights has {len(self.weights)} numbers for {len(self.sources)} sources; give one for each"


BUDGETS = {"max_steps", "minutes", "tokens", "epochs"}  # keys that say how long to train


class TrainConfig(Section):
    """The optimisation. A step consumes batch_size * gradient_accumulation_steps * sequence_length tokens."""

    batch_size: int = Field(12, ge=1)
    """Windows in one micro-batch."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Micro-batches in one optimizer step."""
    sequence_length: int | None = Field(None, ge=1)
    """Length of a training window; model.block_size when unset, never more."""
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps in all. One budget at most: max_steps, minutes, tokens or epochs."""
    minutes: float | None = Field(None, gt=0.0)
    """Wall-clock budget of the whole command; the steps that fit are measured before the first one."""
    tokens: int | None = Field(None, ge=1)
    """Training tokens in all."""
    epochs: float | None = Field(None, gt=0.0)
    """Passes over the training text."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw for everything, or muon for the matrices inside blocks and adamw for the rest."""
    learning_rate: float = Field(6e-4, gt=0.0)
    """Peak learning rate of AdamW."""
    head_learning_rate: float | None = Field(None, gt=0.0)
    """That of a head of its own (model.tie_embeddings false); learning_rate when unset."""
    muon_learning_rate: float = Field(0.02, gt=0.0)
    """Peak learning rate of Muon, when it is the optimizer."""
    min_lr: float | None = Field(None, ge=0.0)
    """Where learning_rate ends (the others in proportion); a tenth of the peak when unset (0 for linear, wsd)."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Shape of the learning rate after the warm-up; wsd stays flat, then falls over the last 20%."""
    weight_decay: float = Field(0.1, ge=0.0)
    """Decoupled decay of matrices; vectors (biases, gains) are never decayed."""
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    """AdamW's first moment decay."""
    beta2: float = Field(0.95, ge=0.0, lt=1.0)
    """AdamW's second moment decay."""
    grad_clip: float = Field(1.0, ge=0.0)
    """Largest norm of the whole gradient; 0 turns clipping off."""
    eval_interval: int | None = Field(None, ge=1)
    """Steps between evaluations; about a tenth of the run when unset."""
    sample_interval: int | None = Field(None, ge=1)
    """Steps between samples (also drawn at the start and the end); as eval_interval when unset."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts of the samples; chosen from the validation text when empty."""
    checkpoint_interval: int | None = Field(None, ge=1)
    """Steps between checkpoints, beside the one before each evaluation; as eval_interval when unset."""
    keep_checkpoints: int | Literal["milestones"] | None = Field(None)
    """How many of the last checkpoints stay (3), or milestones: the weights of log-spaced steps too (small models)."""
    async_checkpoint: bool = False
    """Write checkpoints behind the next steps, which wait only until the tensors are copied in memory."""
    log_interval: int | None = Field(None, ge=1)
    """Steps between lines of metrics.jsonl; about a five-hundredth of the run when unset."""
    tensorboard: bool = False
    """Write the lines of metrics.jsonl for TensorBoard too, into the run's folder tensorboard (the extra [track])."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many evaluations without a better validation loss."""
    seed: int = Field(1337, ge=0)
    """Seed of every random stream."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """bf16 and fp16 run matrix products in 16 bits under autocast; weights stay fp32."""
    compile: bool = False
    """torch.compile the model."""
    attention: Literal["auto", "sdpa", "explicit"] = "auto"
    """Which implementation of the same attention; auto measures both."""
    activation_checkpointing: bool = False
    """Recompute blocks in the backward pass: less memory, about a third more time."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; as many as the process may use when unset."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """What several processes, started by torchrun, share: ddp: the batch; fsdp: weights and optimizer state too."""
    rank_timeout: float = Field(600.0, gt=0.0)
    """Seconds after which a process that the others wait for counts as hung."""

    def problems(self) -> Iterator[str]:
        """What is wrong between fields, each with its remedy."""
        budgets = [name for name in TrainConfig.model_fields if name in BUDGETS and getattr(self, name) is not None]
        if len(budgets) > 1:
            yield f"train.{' and train.'.join(budgets)} are both a budget; give one of them"
        if self.min_lr is not None and self.min_lr > self.learning_rate:
            yield f"train.min_lr = {self.min_lr} is above train.learning_rate = {self.learning_rate}"
        if isinstance(self.keep_checkpoints, int) and self.keep_checkpoints < 1:
            yield f"train.keep_checkpoints = {self.keep_checkpoints}: keep at least one"


class GenerateConfig(Section):
    """Defaults of generation."""

    max_new_tokens: int = Field(200, ge=1)
    """Tokens to add."""
    temperature: float = Field(0.9, ge=0.0)
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = Field(200, ge=0)
    """Sample among the k likeliest only; 0 for all."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Sample among the fewest tokens whose probabilities reach p."""
    min_p: float = Field(0.0, ge=0.0, le=1.0)
    """Sample among tokens with at least this share of the likeliest one's probability."""
    repetition_penalty: float = Field(1.0, gt=0.0)
    """Above 1, what already stands in the text becomes less likely."""
    decay_trigger: str = "[chorus]"
    """Once this token stands in the text, the temperature falls with every token; no effect where it is no token."""
    temperature_decay: float = Field(0.98, gt=0.0, le=1.0)
    """By what the temperature is then multiplied, a token."""
    temperature_floor: float = Field(0.5, ge=0.0)
    """Where that ends."""
    stop_strings: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts at which the writing ends; they are not part of what is returned."""
    num_beams: int = Field(1, ge=1)
    """Above 1: beam search, which looks for the likeliest text; nothing is drawn then."""
    length_penalty: float = 1.0
    """Beam search divides a text's log-probability by its length to this power: above 0 favours long texts."""
    early_stopping: bool = False
    """Beam search ends once num_beams texts are complete, though better ones might follow."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Number format of the weights while writing. auto: bf16 for large models where the machine is fast in it."""
    compile: bool = False
    """Compile the step of one token: starts some seconds later, writes faster. On CPUs; needs a C++ compiler."""
    seed: int = Field(0, ge=0)
    """Seed of sampling."""
    start_document: bool | None = None
    """Begin every prompt with the end-of-text id, as documents did in training; set by training."""


LORA_TARGETS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_gate", "mlp.c_proj")


class LoRAConfig(Section):
    """Low-rank adapters in place of training every weight: what is adapted, and how much can change."""

    rank: int = Field(0, ge=0)
    """Rank of each change; 0: no adapters, every weight is trained."""
    alpha: float = Field(16.0, gt=0.0)
    """The change is scaled by alpha / rank, so that a learning rate fits every rank."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout probability of what goes into an adapter."""
    targets: Annotated[Names, Field(min_length=1)] = LORA_TARGETS
    """Linear layers that are adapted; those that a model does not have (mlp.c_gate in GPT-2) are passed over."""

    def problems(self) -> Iterator[str]:
        """What is wrong with the targets, each with its remedy."""
        for target in self.targets:
            if target not in LORA_TARGETS:
                yield f"lora.targets: {target!r} is no linear layer of a block; {nearest(target, LORA_TARGETS)}"

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class PlanRecord(Section):
    """What was measured or chosen before step 1. Written by training, read by resume; not meant for editing."""

    device: str = ""
    threads: int = 0
    train_tokens: int = 0
    """Tokens of the training split."""
    step_seconds: float = 0.0
    """Measured time of one optimizer step."""
    peak_flops: float = 0.0
    """Measured rate of matrix products, the 100% of `mfu`."""
    training_seconds: float = 0.0
    """Time that training may take, when the budget is one of time."""
    expected_seconds: float = 0.0
    """Forecast of the whole training, evaluation included."""
    expected_memory_mb: float = 0.0
    """Forecast of the growth of memory by model, optimizer and activations."""
    notes: tuple[str, ...] = ()
    """Choices in words, as printed."""
