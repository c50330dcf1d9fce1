"""GGUF files, read back with the library that llama.cpp's own tools use."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from primegpt import api, tokenizers
from primegpt.cli.main import run as command
from primegpt.errors import UsageError
from primegpt.tokenizers.char import CharTokenizer

SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 24}
# What rounding to each type may change, as a share of the largest number of a row (q8_0 and q4_0: of a block of it;
# q4_0 has 8 steps to the side of the largest and 7 to the other).
PRECISION = {"f32": 0.0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 1 / 254 + 2**-10, "q4_0": 1 / 8 + 2**-10}


def quiet(message: str) -> None:
    pass


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train("bpe", ["the river ran under a bridge of stone\n" * 20], 280, {"control": ["<song>"]})


@pytest.fixture
def make_run(random_model, save_run, bpe):
    def make(preset: str = "gpt2", **sizes: object) -> Path:
        return save_run(random_model(preset, vocab_size=bpe.vocab_size, **{**SIZES, **sizes}), bpe)

    return make


def field(reader: gguf.GGUFReader, key: str):
    return reader.get_field(key).contents()


@pytest.mark.parametrize("dtype", PRECISION)
def test_every_number_is_there(make_run, tmp_path, dtype):
    run = make_run()
    weights = api.load(run, device="cpu").model.weights()
    reader = gguf.GGUFReader(api.export(run, tmp_path / "m.gguf", to="gguf", dtype=dtype, say=quiet))
    tensors = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    assert len(tensors) == len(weights)
    pairs = {
        "token_embd.weight": weights["wte.weight"][: field(reader, "gpt2.vocab_size")],
        "position_embd.weight": weights["wpe.weight"],
        "blk.0.attn_qkv.weight": weights["h.0.attn.c_attn.weight"],
        "blk.0.attn_qkv.bias": weights["h.0.attn.c_attn.bias"],
        "blk.0.ffn_down.weight": weights["h.0.mlp.c_proj.weight"],
        "output_norm.weight": weights["ln_f.weight"],
    }
    for name, expected in pairs.items():
        ours = expected.numpy()
        exact = ours.ndim == 1 or name.startswith("position")
        bound = 0.0 if exact else PRECISION[dtype] * np.abs(ours).max()
        assert tensors[name].shape == ours.shape
        assert np.abs(tensors[name] - ours).max() <= bound, name


def test_the_tokenizer_is_there_under_gpt2s_name(make_run, bpe, tmp_path):
    reader = gguf.GGUFReader(api.export(make_run(), tmp_path / "m.gguf", to="gguf", say=quiet))
    assert field(reader, "tokenizer.ggml.pre") == "gpt-2"
    assert len(field(reader, "tokenizer.ggml.tokens")) == bpe.vocab_size
    assert field(reader, "tokenizer.ggml.tokens")[bpe.token_id("<song>")] == "<song>"
    assert field(reader, "tokenizer.ggml.token_type")[bpe.token_id("<song>")] == gguf.TokenType.CONTROL
    assert len(field(reader, "tokenizer.ggml.merges")) == len(bpe.merges)
    assert field(reader, "tokenizer.ggml.eos_token_id") == bpe.eot_id


def test_rows_that_do_not_fill_blocks_fall_back_to_half_precision(make_run, tmp_path):
    run = make_run("qwen3", n_embd=48, n_head=4, head_dim=8)
    reader = gguf.GGUFReader(api.export(run, tmp_path / "m.gguf", to="gguf", dtype="q8_0", say=quiet))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == "F16"  # 48 columns
    assert kinds["blk.0.attn_output.weight"] == "Q8_0"  # 32
    assert kinds["blk.0.attn_q_norm.weight"] == "F32"


@pytest.mark.parametrize("tied", [True, False])
def test_four_bits_are_laid_out_as_llama_cpp_reads_them_and_the_output_layer_has_eight(make_run, tmp_path, tied):
    """A block: the scale in f16, then 16 bytes: in their low halves its first 16 numbers, in the high ones the rest."""
    run = make_run("qwen3", n_head=4, head_dim=16, intermediate_size=40, tie_embeddings=tied)
    path = api.export(run, tmp_path / "m.gguf", to="gguf", dtype="q4_0", say=quiet)
    reader = gguf.GGUFReader(path)
    found = {tensor.name: tensor for tensor in reader.tensors}
    kinds = {name.removesuffix(".weight"): tensor.tensor_type.name for name, tensor in found.items()}
    assert kinds["token_embd"] == ("Q8_0" if tied else "Q4_0")
    assert kinds.get("output", "Q8_0") == "Q8_0"
    assert kinds["blk.0.ffn_down"] == "F16"  # rows of 40
    assert field(reader, "general.file_type") == gguf.LlamaFileType.MOSTLY_Q4_0
    original = api.load(run, device="cpu").model.weights()["h.0.attn.c_proj.weight"].numpy()
    blocks = found["blk.0.attn_output.weight"].data.reshape(-1, 18)
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    numbers = (np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(np.float32) - 8) * scales
    largest = np.abs(original.reshape(-1, 32)).max(axis=1)
    assert np.abs(scales[:, 0]) == pytest.approx(largest / 8, rel=2**-10)
    off = np.abs(numbers - original.reshape(-1, 32))
    ends = np.abs(numbers) > 6.5 * np.abs(scales)  # beyond the last step of the shorter side there is none
    assert (off <= np.abs(scales) * np.where(ends, 1.0, 0.501)).all()
    back = api.load(api.import_model(path, tmp_path / "back", say=quiet), device="cpu").model.weights()
    assert np.array_equal(back["h.0.attn.c_proj.weight"].numpy(), numbers.reshape(original.shape))


def test_characters_and_prime_are_refused_with_what_works(random_model, save_run, make_run, tmp_path, capsys):
    letters = CharTokenizer("abc")
    run = save_run(random_model(vocab_size=letters.vocab_size), letters, "letters")
    assert command(["export", str(run), "--to", "gguf", "--out", str(tmp_path / "m.gguf")], 0.0) == 2
    assert "--tokenizer.kind bpe" in capsys.readouterr().err
    with pytest.raises(
        UsageError, match=r"llama.cpp does not have; .*'relu2'.*--to hf.* NanoChat; .*--model.preset qwen3"
    ):
        api.export(make_run("prime"), tmp_path / "m.gguf", to="gguf", say=quiet)
    assert not list(tmp_path.glob("*.gguf"))


def test_a_failure_leaves_no_file(make_run, tmp_path, monkeypatch):
    run = make_run()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gguf.GGUFWriter.write_tensor_data", full)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(Exception, match="No space left"):
        api.export(run, tmp_path / "m.gguf", to="gguf", say=quiet)
    assert set(tmp_path.rglob("*")) == before


def test_biases_and_a_stretch_of_positions_go_along_or_are_refused(make_run, tmp_path):
    run = make_run("qwen2", rope_type="linear", rope_factor=4.0)
    reader = gguf.GGUFReader(api.export(run, tmp_path / "m.gguf", to="gguf", say=quiet))
    assert field(reader, "general.architecture") == "qwen2"
    assert (field(reader, "qwen2.rope.scaling.type"), field(reader, "qwen2.rope.scaling.factor")) == ("linear", 4.0)
    names = {tensor.name for tensor in reader.tensors}
    assert "blk.0.attn_k.bias" in names
    assert "blk.0.attn_output.bias" not in names


def test_a_long_llama_says_by_what_each_frequency_is_divided(make_run, tmp_path):
    stretch = {"rope_type": "llama3", "rope_factor": 8.0, "rope_original_context": 600, "rope_theta": 5e5}
    run = make_run("mistral", head_dim=64, **stretch)
    reader = gguf.GGUFReader(api.export(run, tmp_path / "m.gguf", to="gguf", say=quiet))
    assert field(reader, "general.architecture") == "llama"
    (found,) = (tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight")
    assert found.dtype == np.float32
    np.testing.assert_allclose((found[0], found[-1]), (1.0, 8.0), rtol=1e-6)
    assert (np.diff(found) >= -1e-6).all()
    assert len(found) == 32


@pytest.mark.parametrize(
    ("preset", "sizes", "said"),
    [("qwen3", {"attention_bias": "all"}, "biases in attention"), ("qwen2", {"rope_type": "llama3"}, "of Llama alone")],
)
def test_what_llama_cpp_has_of_others_alone_is_refused(make_run, tmp_path, preset, sizes, said):
    with pytest.raises(UsageError, match=f"{said}.*--to hf"):
        api.export(make_run(preset, **sizes), tmp_path / "m.gguf", to="gguf", say=quiet)
