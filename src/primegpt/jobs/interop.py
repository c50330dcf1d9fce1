"""Models in from Transformers folders and GGUF files, and out to Transformers and llama.cpp."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from primegpt.config import Config, resolve, write_toml
from primegpt.errors import MismatchError, UsageError
from primegpt.inference.run import load_config
from primegpt.interop import gguf, gguf_import, huggingface
from primegpt.interop.carried import read_carried
from primegpt.interop.gguf_file import is_gguf
from primegpt.interop.weight_files import WeightFiles
from primegpt.model.size import human_count
from primegpt.run import atomic
from primegpt.run.checkpoint import STATE, read_manifest, tensor_files
from primegpt.run.folder import RunFolder, latest_run, new_identity, next_run_path
from primegpt.run.saving import write_checkpoint
from primegpt.run.tensors import serialize_lazily
from primegpt.terminal import Say, to_stderr
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer

Target = Literal["hf", "gguf"]


def import_model(
    source: str | Path,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    tokenizer: str | Path | None = None,
    say: Say = to_stderr,
) -> Path:
    """Make a run of the Transformers folder, GGUF file or hub id `source`, and return where it is.

    The run can do all that a trained one can but resume: its only checkpoint, step 0, holds weights alone, and there
    is no data.json. `tokenizer` names a saved tokenizer to use in place of the model's own. Raises UsageError, before
    anything is written, for a model that cannot be used.
    """
    name = Path(source).stem if is_gguf(Path(source)) else Path(source).name
    path = Path(out) if out else next_run_path(name or "imported")
    RunFolder(path).refuse_unless_free(overwrite)
    foreign = open_foreign(source, tokenizer)
    if foreign.left_out:
        context = foreign.model.block_size
        positions = f"{context} of its {context + foreign.left_out} positions"
        say(f"only {positions} are used: beyond them its attention slides, and sees no more than these at once")
    write_imported(foreign, path, overwrite)
    say(f"imported {foreign.family.title}, {_size(foreign.shapes())} parameters, to {path}")
    return path


def open_foreign(source: str | Path, tokenizer: str | Path | None = None) -> huggingface.ForeignModel:
    """The Transformers folder, GGUF file or hub id `source`, checked. Raises UsageError if it cannot be used."""
    other = store.load(tokenizer) if tokenizer else None
    if is_gguf(Path(source)):
        found = gguf_import.open_model(Path(source), other)
    else:
        found = huggingface.open_model(huggingface.find_folder(str(source)), other)
    huggingface.refuse_non_finite(found)
    return found


def imported_config(foreign: huggingface.ForeignModel) -> Config:
    """The configuration of a run that holds `foreign`."""
    model = foreign.model.model_dump(exclude_unset=True) | {"vocab_size": foreign.model.vocab_size}
    data = {"template": foreign.layout} if foreign.layout else {}
    tokenizer = {"kind": foreign.tokenizer.kind}
    return resolve({"model": model, "tokenizer": tokenizer, "data": data, "generate": foreign.generate})


def write_imported(foreign: huggingface.ForeignModel, path: Path, overwrite: bool = False) -> None:
    """Make a run of `foreign` at `path`, a tensor at a time."""
    config = imported_config(foreign).with_values(plan={"run": new_identity()})
    state = {
        "imported": {"from": foreign.origin, "model_type": foreign.family.name},
        "fingerprints": {"tokenizer": foreign.tokenizer.fingerprint},
        "config": config.model_dump(mode="json", exclude_none=True),
    }
    folder = RunFolder.create(path, overwrite)
    with folder.lock(), atomic.io_errors(f"write {path}"):
        contents = {
            "model.safetensors": serialize_lazily(foreign.shapes(), foreign.read),
            STATE: [atomic.canonical_json(state)],
        }
        store.save(foreign.tokenizer, folder.tokenizer_dir)
        carry(foreign.carried, folder)
        write_checkpoint(folder.checkpoints_dir, 0, contents, resumable=False)
        folder.point("best", 0)
        folder.point("last", 0)
        atomic.write_text_atomic(folder.config_path, write_toml(config))  # last: until then there is no run
        folder.seal()


def carry(files: Mapping[str, bytes], folder: RunFolder) -> None:
    """Keep `files` with a run, to go out with it when it is exported."""
    if files:
        atomic.make_folder(folder.carried_dir)
    for name, content in files.items():
        atomic.write_bytes_atomic(folder.carried_dir / name, content)


def carried_by(folder: RunFolder, warn: Say) -> dict[str, bytes]:
    """What goes out with a run: its own, else that of the model that it was fine-tuned from; damage is told."""
    runs = (folder, RunFolder(folder.base_dir))
    for damage in (damage for run in runs for damage in run.damages_of("carried/*")):
        warn(damage)
    place = next((run.carried_dir for run in runs if run.carried_dir.is_dir()), None)
    return read_carried(place) if place else {}


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

    `dtype` (gguf only) is f32, f16, bf16, q8_0 or q4_0. Raises UsageError for what the other side cannot express,
    before anything is written; MismatchError for a run whose parts do not belong together.
    """
    folder = RunFolder.open(Path(run) if run else latest_run())
    owner = str(folder.path)
    path = Path(out) if out else Path(f"{folder.path.name}.gguf" if to == "gguf" else f"{folder.path.name}-hf")
    tokenizer = store.load(folder.tokenizer_dir)
    if to == "hf" and dtype not in (None, "f32"):
        raise UsageError(f"--dtype {dtype} is for gguf", "a Transformers folder is written in f32")
    config, weights = _verified_weights(folder, checkpoint, tokenizer, say)
    if to == "hf":
        carried = carried_by(folder, say)
        family = huggingface.write_model(
            path, config, tokenizer, weights, owner=owner, shard_bytes=shard_bytes, carried=carried
        )
    else:
        family = gguf.write_file(path, config, tokenizer, weights, owner=owner, dtype=dtype or "f16")
    say(f"wrote {family.title}, {_size(weights.shapes)} parameters, to {path}")
    return path


def _verified_weights(
    folder: RunFolder, which: str | int, tokenizer: Tokenizer, say: Say
) -> tuple[Config, WeightFiles]:
    """The weights of a checkpoint, hashed whole, to be read a tensor at a time; and what they were trained with."""
    saved = folder.load_checkpoint(which, say, (), lazily=True)
    config = load_config(folder, say, saved)
    known = saved.state["fingerprints"]["tokenizer"], config.model.vocab_size
    if known != (tokenizer.fingerprint, tokenizer.vocab_size):
        raise MismatchError(f"the model in {saved.path} belongs to another tokenizer than {folder.tokenizer_dir}")
    return config, WeightFiles(saved.path / name for name in tensor_files("model", read_manifest(saved.path)))


def _size(shapes: dict[str, Any]) -> str:
    return human_count(sum(shape.numel() for shape in shapes.values()))
