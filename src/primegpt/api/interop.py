"""Models in from Transformers folders, and out to Transformers and llama.cpp."""

from pathlib import Path
from typing import Any, Literal

from primegpt.api.runs import Say, load_config, to_stderr
from primegpt.config import Config, resolve, write_toml
from primegpt.errors import MismatchError, UsageError
from primegpt.interop import gguf, huggingface
from primegpt.interop.weight_files import WeightFiles
from primegpt.model.size import human_count
from primegpt.run import atomic
from primegpt.run.checkpoint import STATE, load_checkpoint, read_manifest, tensor_files, write_checkpoint
from primegpt.run.folder import RunFolder, latest_run, next_run_path
from primegpt.run.tensors import serialize_lazily
from primegpt.tokenizers import store

Target = Literal["hf", "gguf"]


def import_model(
    source: str | Path,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    tokenizer: str | Path | None = None,
    say: Say = to_stderr,
) -> Path:
    """Make a run of the Transformers folder (or hub id) `source`, and return where it is.

    The run can do all that a trained one can but resume: its only checkpoint, step 0, holds weights alone, and there
    is no data.json. `tokenizer` names a saved tokenizer to use in place of the folder's own. Raises UsageError, before
    anything is written, for a folder that cannot be used.
    """
    path = Path(out) if out else next_run_path(Path(source).name or "imported")
    RunFolder(path).refuse_unless_free(overwrite)
    foreign = open_foreign(source, tokenizer)
    write_imported(foreign, path, overwrite)
    say(f"imported {foreign.family.title}, {_size(foreign.shapes())} parameters, to {path}")
    return path


def open_foreign(source: str | Path, tokenizer: str | Path | None = None) -> huggingface.ForeignModel:
    """The Transformers folder (or hub id) `source`, checked. Raises UsageError if it cannot be used."""
    return huggingface.open_model(huggingface.find_folder(str(source)), store.load(tokenizer) if tokenizer else None)


def imported_config(foreign: huggingface.ForeignModel) -> Config:
    """The configuration of a run that holds `foreign`."""
    model = foreign.model.model_dump(exclude_unset=True) | {"vocab_size": foreign.model.vocab_size}
    return resolve({"model": model, "tokenizer": {"kind": foreign.tokenizer.kind}, "generate": foreign.generate})


def write_imported(foreign: huggingface.ForeignModel, path: Path, overwrite: bool = False) -> None:
    """Make a run of `foreign` at `path`, a tensor at a time."""
    state = {
        "imported": {"from": "transformers", "model_type": foreign.family.name},
        "fingerprints": {"tokenizer": foreign.tokenizer.fingerprint},
    }
    folder = RunFolder.create(path, overwrite)
    with folder.lock(), atomic.io_errors(f"write {path}"):
        contents = {
            "model.safetensors": serialize_lazily(foreign.shapes(), foreign.read),
            STATE: [atomic.canonical_json(state)],
        }
        store.save(foreign.tokenizer, folder.tokenizer_dir)
        write_checkpoint(folder.checkpoints_dir, 0, contents, resumable=False)
        folder.point("best", 0)
        folder.point("last", 0)
        config = imported_config(foreign)
        atomic.write_text_atomic(folder.config_path, write_toml(config))  # last: until then there is no run


def write_peft_adapter(folder: RunFolder, config: Config, say: Say = to_stderr) -> None:
    """The adapters of a run's best checkpoint in PEFT's files, in its folder `adapter/`.

    They belong onto what `primegpt export RUN/base` writes. A model that cannot be exported has none.
    """
    from primegpt.interop.peft import write_adapter

    tensors = folder.load_checkpoint("best", say, {"adapter"}).tensors["adapter"]
    layers = {name.removesuffix(".lora_a"): tensors[name] for name in tensors if name.endswith(".lora_a")}
    try:
        write_adapter(
            folder.adapter_dir,
            config.model,
            config.lora,
            {name: (a, tensors[f"{name}.lora_b"]) for name, a in layers.items()},
            owner=str(folder.path),
        )
    except UsageError as error:
        say(f"{'adapter':<10} not written in PEFT's files: {error.what}")


def export(
    run: str | Path | None = None,
    out: str | Path | None = None,
    *,
    to: Target = "hf",
    dtype: str | None = None,
    checkpoint: str | int = "best",
    shard_bytes: int = huggingface.SHARD_BYTES,
    say: Say = to_stderr,
) -> Path:
    """Write a run's weights and tokenizer for Transformers (`to="hf"`, a folder) or llama.cpp (`to="gguf"`, a file).

    `dtype` (gguf only) is f32, f16, bf16 or q8_0. Raises UsageError for what the other side cannot express, before
    anything is written; MismatchError for a run whose parts do not belong together.
    """
    folder = RunFolder.open(Path(run) if run else latest_run())
    owner, config = str(folder.path), load_config(folder)
    path = Path(out) if out else Path(f"{folder.path.name}.gguf" if to == "gguf" else f"{folder.path.name}-hf")
    tokenizer = store.load(folder.tokenizer_dir)
    if to == "hf" and dtype not in (None, "f32"):
        raise UsageError(f"--dtype {dtype} is for gguf", "a Transformers folder is written in f32")
    weights = _verified_weights(folder, checkpoint, tokenizer.fingerprint, tokenizer.vocab_size, say)
    if to == "hf":
        family = huggingface.write_model(path, config, tokenizer, weights, owner=owner, shard_bytes=shard_bytes)
    else:
        family = gguf.write_file(path, config, tokenizer, weights, owner=owner, dtype=dtype or "f16")
    say(f"wrote {family.title}, {_size(weights.shapes)} parameters, to {path}")
    return path


def _verified_weights(folder: RunFolder, which: str | int, fingerprint: str, vocab_size: int, say: Say) -> WeightFiles:
    """The weights of a checkpoint, hashed whole, then to be read a tensor at a time."""
    config, saved = load_config(folder), folder.verified_checkpoint(which, say)
    state = load_checkpoint(saved, ()).state
    if state["fingerprints"]["tokenizer"] != fingerprint or config.model.vocab_size != vocab_size:
        raise MismatchError(f"the model in {saved} belongs to another tokenizer than {folder.tokenizer_dir}")
    return WeightFiles(saved / name for name in tensor_files("model", read_manifest(saved)))


def _size(shapes: dict[str, Any]) -> str:
    return human_count(sum(shape.numel() for shape in shapes.values()))
