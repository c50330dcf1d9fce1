"""Models from GGUF files: what was exported comes back bit for bit, and each setting is read or refused by name."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize

from primegpt import api, tokenizers
from primegpt.cli.main import run as command
from primegpt.errors import UsageError
from primegpt.interop import gguf_import
from primegpt.interop.gguf import frequency_divisors
from primegpt.jobs.bases import open_base

FAMILIES = [
    ("gpt2", {}),
    ("gpt2", {"n_layer": 1, "tie_embeddings": False, "n_head": 2, "intermediate_size": 64, "norm_eps": 1e-6}),
    ("qwen3", {"n_kv_head": 2, "head_dim": 16, "rope_theta": 1e6}),
    ("qwen3", {"n_layer": 1, "tie_embeddings": False}),
    ("qwen3", {"qk_norm": False, "n_kv_head": 2, "norm_eps": 1e-6}),  # that is Llama
    ("qwen3", {"qk_norm": False, "bias": True}),
    ("llama", {"attention_bias": "all", "head_dim": 64, "rope_theta": 5e5, "rope_type": "llama3", "rope_factor": 32.0}),
    ("qwen2", {"n_kv_head": 2, "rope_type": "linear", "rope_factor": 4.0}),
]
LLAMA = {"qk_norm": False, "n_layer": 1}
CORPUS = "the river ran under a bridge of stone — and the song went on until mörning, it's 12 o'clock\n" * 20
QUANTIZED = ("Q8_0", "Q4_0", "Q4_K", "Q6_K")


def quiet(message: str) -> None:
    pass


@pytest.fixture(scope="module")
def bpe() -> tokenizers.Tokenizer:
    return tokenizers.train("bpe", [CORPUS], 320, {"control": ["<song>", "</song>"], "genre": ["<folk>"]})


@pytest.fixture
def make_file(random_model, save_run, bpe, tmp_path) -> Callable[..., tuple[Path, Path]]:
    """A maker of a run, and of the GGUF file of it in f32."""

    def make(
        preset: str = "gpt2", tokenizer: tokenizers.Tokenizer = bpe, name: str = "run", **sizes: object
    ) -> tuple[Path, Path]:
        run = save_run(random_model(preset, vocab_size=tokenizer.vocab_size, **sizes), tokenizer, name)
        return run, api.export(run, tmp_path / f"{name}.gguf", to="gguf", dtype="f32", say=quiet)

    return make


Fields = dict[str, tuple[object, gguf.GGUFValueType, gguf.GGUFValueType | None]]
Tensors = dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]]


def rewrite(path: Path, change: Callable[[Fields, Tensors], object]) -> Path:
    """The file anew, by the library, after `change` of its metadata and its tensors."""
    reader = gguf.GGUFReader(path)
    fields: Fields = {
        name: (field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None)
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    tensors: Tensors = {tensor.name: (np.array(tensor.data), tensor.tensor_type) for tensor in reader.tensors}
    change(fields, tensors)
    out = path.with_name("changed.gguf")
    writer = gguf.GGUFWriter(out, str(fields["general.architecture"][0]))
    for name, (value, kind, inner) in fields.items():
        if name != "general.architecture":
            writer.add_key_value(name, value, kind, inner)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def refused(path: Path, *expected: str) -> None:
    """Importing `path` fails in one line that has `expected` in it, and leaves nothing behind."""
    with pytest.raises(UsageError) as caught:
        api.import_model(path, path.parent / "never", say=quiet)
    for text in expected:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (path.parent / "never").exists()


@pytest.mark.parametrize(("preset", "sizes"), FAMILIES)
@torch.inference_mode()
def test_a_run_comes_back_as_it_was(preset, sizes, make_file, tmp_path):
    run, path = make_file(preset, **sizes)
    before = api.load(run, device="cpu")
    after = api.load(api.import_model(path, tmp_path / "back", say=quiet), device="cpu")
    assert after.tokenizer.fingerprint == before.tokenizer.fingerprint
    ids = torch.randint(before.tokenizer.vocab_size, (2, 16))
    assert torch.equal(before.model(ids), after.model(ids))
    again = api.export(after.folder.path, tmp_path / "m2" / "run.gguf", to="gguf", dtype="f32", say=quiet)
    assert again.read_bytes() == path.read_bytes()


def blocks(kind: gguf.GGMLQuantizationType, rows: int, columns: int) -> np.ndarray:
    """Random bytes in which no half-precision number is infinite or NaN: one bit of its exponent is off."""
    shape = gguf.quant_shape_to_byte_shape((rows, columns), kind)
    return np.random.default_rng(rows).integers(0, 256, shape, np.uint8) & 0xFB


@pytest.mark.parametrize("name", ["F16", "BF16", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q5_K", *QUANTIZED])
def test_weights_of_every_type_are_those_that_the_library_unpacks(name, make_file, tmp_path):
    kind = gguf.GGMLQuantizationType[name]
    _, path = make_file("qwen3", n_embd=256, intermediate_size=256, n_head=4, n_kv_head=2, **LLAMA)
    matrices = ["token_embd", "blk.0.attn_q", "blk.0.attn_k", "blk.0.attn_v", "blk.0.ffn_down"]

    def store(fields: Fields, tensors: Tensors) -> None:
        for tensor in matrices:
            values = tensors[f"{tensor}.weight"][0]
            data = blocks(kind, *values.shape) if name in QUANTIZED else None
            if data is None:
                data = blocks(kind, *values.shape) if name.endswith("_K") else quantize(values, kind)
            tensors[f"{tensor}.weight"] = data, kind

    changed = rewrite(path, store)
    stored = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(changed).tensors}
    run = api.load(api.import_model(changed, tmp_path / "back", say=quiet), device="cpu")
    weights = {ours: weight.numpy() for ours, weight in run.model.weights().items()}
    assert np.array_equal(weights["wte.weight"][: run.tokenizer.vocab_size], stored["token_embd.weight"])
    assert np.array_equal(weights["h.0.mlp.c_proj.weight"], stored["blk.0.ffn_down.weight"])
    queries, keys, values = np.split(weights["h.0.attn.c_attn.weight"], [256, 384])
    assert np.array_equal(values, stored["blk.0.attn_v.weight"])
    for heads, ours, theirs in ((4, queries, "blk.0.attn_q.weight"), (2, keys, "blk.0.attn_k.weight")):
        turned = ours.reshape(heads, 2, 32, 256).swapaxes(1, 2).reshape(ours.shape)  # as llama.cpp's converter does
        assert np.array_equal(turned, stored[theirs])


def test_settings_that_are_not_said_are_llama_cpps(make_file, tmp_path):
    _, path = make_file("qwen3", **LLAMA)
    unsaid = ["attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.freq_base"]

    def change(fields: Fields, tensors: Tensors) -> None:
        for key in unsaid:
            del fields[f"llama.{key}"]
        fields["llama.attention.layer_norm_rms_epsilon"] = (1e-5, gguf.GGUFValueType.FLOAT32, None)

    model = api.load(api.import_model(rewrite(path, change), tmp_path / "back", say=quiet)).config.model
    assert (model.n_head, model.kv_heads, model.head_size, model.rope_theta) == (4, 4, 8, 10000.0)
    assert model.norm_eps == 1e-5  # not the fp32 number next to it, 9.99999974e-06


def number(key: str, value: float, kind: gguf.GGUFValueType = gguf.GGUFValueType.FLOAT32) -> Callable[..., None]:
    return lambda fields, tensors: fields.__setitem__(key, (value, kind, None))


def text(key: str, value: str) -> Callable[..., None]:
    return number(key, value, gguf.GGUFValueType.STRING)  # type: ignore[arg-type]


def integer(key: str, value: int) -> Callable[..., None]:
    return number(key, value, gguf.GGUFValueType.UINT32)


def tensor(name: str, *shape: int, value: float = 1.0) -> Callable[..., None]:
    data = np.full(shape, value, np.float32)
    return lambda fields, tensors: tensors.__setitem__(name, (data, gguf.GGMLQuantizationType.F32))


def without(name: str) -> Callable[..., None]:
    return lambda fields, tensors: (fields.pop(name, None), tensors.pop(name, None))


HEADS = "llama.attention.head_count_kv"
EACH_LAYER = gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32
REFUSED = [
    (text("general.architecture", "falcon"), ["general.architecture = 'falcon'", "gpt2, qwen3, llama"]),
    (text("general.type", "adapter"), ["adapter"]),
    (integer("split.count", 3), ["one of 3 parts", "llama-gguf-split --merge"]),
    (without("llama.block_count"), ["llama.block_count is missing"]),
    (integer("llama.block_count", 0), ["num_hidden_layers = 0"]),
    (integer("llama.block_count", 2**31), ["model.n_layer"]),
    (integer("llama.block_count", 2), ["lacks the tensor 'blk.1.attn_norm.weight'"]),
    (integer("llama.feed_forward_length", 64), ["blk.0.ffn_gate.weight", "[64, 32]"]),
    (number("llama.attention.layer_norm_rms_epsilon", float("nan")), ["rms_norm_eps = nan"]),
    (number("llama.rope.freq_base", float("inf")), ["rope_theta = inf"]),
    (lambda fields, tensors: fields.__setitem__(HEADS, ([4, 2], *EACH_LAYER)), [HEADS, "equal layers"]),
    (integer("llama.rope.dimension_count", 4), ["llama.rope.dimension_count = 4"]),
    (integer("llama.attention.value_length", 4), ["llama.attention.value_length = 4"]),
    (integer("llama.expert_count", 8), ["llama.expert_count = 8"]),
    (number("llama.logit_scale", 0.5), ["llama.logit_scale = 0.5"]),
    (text("llama.rope.scaling.type", "yarn"), ["'yarn' rotary positions"]),
    (tensor("rope_freqs.weight", 4, value=8.0), ["rope_freqs.weight scales"]),
    (tensor("rope_freqs.weight", 4, value=0.0), ["rope_freqs.weight scales"]),
    (tensor("rope_freqs.weight", 4, value=float("nan")), ["rope_freqs.weight scales"]),
    (tensor("rope_freqs.weight", 4, 3, value=8.0), ["rope_freqs.weight scales"]),
    (tensor("blk.0.attn_q.bias", 32), ["lacks the tensor 'blk.0.attn_k.bias'"]),
    (tensor("blk.0.attn_sinks.weight", 4), ["'blk.0.attn_sinks.weight', which no Llama model has"]),
    (tensor("output_norm.weight", 32, value=float("nan")), ["'output_norm.weight' holds 32 NaN"]),
    (tensor("token_embd.weight", 20, 32), ["the tokenizer has", "the model only 20"]),
    (without("token_embd.weight"), ["lacks the tensor 'token_embd.weight'"]),
    (without("tokenizer.ggml.tokens"), ["tokenizer.ggml.tokens is no list", "--tokenizer"]),
    (without("tokenizer.ggml.merges"), ["was saved as"]),
    (lambda fields, tensors: fields["tokenizer.ggml.tokens"][0].reverse(), ["was saved as"]),
    (lambda fields, tensors: fields["tokenizer.ggml.merges"][0].pop(), ["was saved as"]),
    (
        lambda fields, tensors: text("primegpt.tokenizer", fields["primegpt.tokenizer"][0].replace("genre", "other"))(
            fields, tensors
        ),
        ["was saved as"],
    ),
    (text("primegpt.tokenizer", "{"), ["its tokenizer cannot be used"]),
    (text("primegpt.tokenizer", '{"kind": "char", "special_kinds": {}}'), ["'char'"]),
]


@pytest.mark.parametrize(("change", "expected"), REFUSED, ids=[expected[0] for _, expected in REFUSED])
def test_what_does_not_fit_is_refused_by_name(change, expected, make_file):
    _, path = make_file("qwen3", **LLAMA)
    refused(rewrite(path, change), *expected)


def test_a_factor_without_a_type_is_linear(make_file):
    """As llama.cpp has it; a factor of 0, or the type "none", stretches nothing there."""
    _, path = make_file("qwen3", **LLAMA)
    factor = number("llama.rope.scaling.factor", 4.0)
    model = gguf_import.open_model(rewrite(path, factor)).model
    assert (model.rope_type, model.rope_factor) == ("linear", 4.0)
    none = text("llama.rope.scaling.type", "none")
    changes = number("llama.rope.scaling.factor", 0.0), lambda *both: (factor(*both), none(*both))
    for change in changes:
        assert gguf_import.open_model(rewrite(path, change)).model.rope_type == "default"


SINGLE = ["split.count", "general.type", "llama.attention.value_length", "llama.attention.causal"]
SINGLE += ["llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.rope.dimension_count"]


@pytest.mark.parametrize("key", SINGLE)
def test_a_list_where_one_value_belongs_is_refused(make_file, key):
    _, path = make_file("qwen3", **LLAMA)
    refused(rewrite(path, lambda fields, tensors: fields.__setitem__(key, ([8, 8], *EACH_LAYER))), f"{key} is a list")


def test_no_key_that_is_a_list_is_a_traceback(make_file):
    _, path = make_file("qwen3", **LLAMA)
    keys: list[str] = ["tokenizer.chat_template"]
    rewrite(path, lambda fields, tensors: keys.extend(fields.keys() - {"general.architecture"}))
    for key in keys:
        changed = rewrite(path, lambda fields, tensors, key=key: fields.__setitem__(key, ([8, 8], *EACH_LAYER)))
        with contextlib.suppress(UsageError):
            gguf_import.open_model(changed)


def test_heads_that_do_not_divide_the_width_are_refused(make_file):
    """A width per head of its own, as Transformers' Llama has it, needs them to."""
    _, path = make_file("qwen3", **LLAMA)
    keys = "llama.attention.head_count", HEADS
    refused(rewrite(path, lambda *both: [integer(key, 3)(*both) for key in keys]), "model.n_head = 3")


@pytest.mark.parametrize(("width", "divisors"), [(50, [8.0] * 12), (32, [1.0] * 8), (32, None), (32, [8.0] * 8)])
def test_learnt_positions_are_not_stretched(make_file, width, divisors):
    """None stands for divisors that would fit, were positions rotary."""
    _, path = make_file("gpt2", n_layer=1, n_head=2, n_embd=width)
    if divisors is None:
        stretched = make_file("llama", n_layer=1, n_head=2, rope_type="llama3", name="other")[0]
        divisors = frequency_divisors(api.load(stretched).config.model).tolist()
    data = np.array(divisors, np.float32), gguf.GGMLQuantizationType.F32
    changed = rewrite(path, lambda fields, tensors: tensors.__setitem__("rope_freqs.weight", data))
    refused(changed, "'rope_freqs.weight', which no GPT-2 model has")


def test_divisors_are_not_read_before_their_shape_is_known(make_file, monkeypatch):
    _, path = make_file("qwen3", **LLAMA)
    changed = rewrite(path, tensor("rope_freqs.weight", 3, value=1.0))
    monkeypatch.setattr("primegpt.interop.gguf_file.GGUFFile.read", lambda *args: pytest.fail("was read"))
    refused(changed, "rope_freqs.weight scales")


def test_frequencies_that_scale_nothing_change_nothing(make_file, tmp_path):
    _, path = make_file("qwen3", **LLAMA)
    assert api.import_model(rewrite(path, tensor("rope_freqs.weight", 4)), tmp_path / "back", say=quiet)


def test_a_scale_that_is_not_a_number_is_found(make_file):
    _, path = make_file("qwen3", **LLAMA)

    def spoil(fields: Fields, tensors: Tensors) -> None:
        data = quantize(tensors["blk.0.ffn_up.weight"][0], gguf.GGMLQuantizationType.Q8_0)
        data[3, :2] = np.frombuffer(np.float16("nan").tobytes(), np.uint8)
        tensors["blk.0.ffn_up.weight"] = data, gguf.GGMLQuantizationType.Q8_0

    refused(rewrite(path, spoil), "'blk.0.ffn_up.weight' holds 32 NaN or infinite values")


def test_gpt2s_own_files_bring_its_tokenizer(make_file, tmp_path, bpe):
    """As llama.cpp's converter writes them: nothing of ours in it, and ids that pad the vocabulary."""
    _, path = make_file()

    def foreign(fields: Fields, tensors: Tensors) -> None:
        del fields["primegpt.tokenizer"], fields["tokenizer.ggml.add_bos_token"]
        fields["tokenizer.ggml.tokens"][0].append("[PAD]")
        fields["tokenizer.ggml.token_type"][0].append(5)
        embedding, kind = tensors["token_embd.weight"]
        tensors["token_embd.weight"] = np.vstack([embedding, embedding[:1]]), kind

    run = api.load(api.import_model(rewrite(path, foreign), tmp_path / "back", say=quiet))
    assert run.tokenizer.encode(CORPUS) == bpe.encode(CORPUS)
    assert run.tokenizer.special_tokens == bpe.special_tokens
    for key, value in (("model", "bert"), ("pre", "qwen9")):
        refused(rewrite(path, lambda *a, k=key, v=value: (foreign(*a), text(f"tokenizer.ggml.{k}", v)(*a))), f"{value}")


def test_sentencepiece_comes_back(make_file, tmp_path):
    pieces = tokenizers.train("sentencepiece", [CORPUS], 330, {"control": ["<song>"]})
    _, path = make_file(tokenizer=pieces, n_layer=1)
    run = api.load(api.import_model(path, tmp_path / "back", say=quiet))
    assert run.tokenizer.fingerprint == pieces.fingerprint


def test_another_tokenizer_can_be_named(make_file, tmp_path, bpe):
    run, path = make_file(n_layer=1)
    changed = rewrite(path, lambda fields, tensors: [fields.pop(key) for key in list(fields) if "token" in key])
    refused(changed, "--tokenizer")
    back = api.import_model(changed, tmp_path / "back", tokenizer=run, say=quiet)
    assert api.load(back).tokenizer.fingerprint == bpe.fingerprint


def test_commands_take_a_file(make_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, path = make_file(n_layer=1)
    assert command(["import", str(path)], 0.0) == 0
    assert (tmp_path / "runs" / "run-1" / "config.toml").exists()
    state = json.loads(next((tmp_path / "runs" / "run-1").glob("checkpoints/*/state.json")).read_text())
    assert state["imported"] == {"from": "gguf", "model_type": "gpt2"}
    assert open_base(path).tokenizer.fingerprint == api.load("runs/run-1").tokenizer.fingerprint


def test_a_folder_of_files_says_to_name_one(make_file, capsys):
    _, path = make_file(n_layer=1)
    assert command(["import", str(path.parent)], 0.0) == 2
    assert f"name the GGUF file itself, {path}" in capsys.readouterr().err
