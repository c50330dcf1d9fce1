"""Transformers folders: out and in again without a bit lost, and nothing accepted that is not what it should be."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from primegpt import api
from primegpt.cli.main import run as command
from primegpt.errors import UsageError
from primegpt.interop import huggingface
from primegpt.tokenizers import store
from primegpt.tokenizers.char import CharTokenizer

LLAMA = {"qk_norm": False}  # what turns the qwen3 preset into Llama
SHAPES = [
    ("gpt2", {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 48}),
    ("gpt2", {"n_layer": 1, "n_head": 2, "n_embd": 24, "intermediate_size": 40, "tie_embeddings": False}),
    ("qwen3", {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "head_dim": 16, "rope_theta": 1e6}),
    ("qwen3", {"n_layer": 1, "n_head": 6, "n_kv_head": 1, "n_embd": 24, "head_dim": 10, "tie_embeddings": False}),
    ("qwen3", {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "bias": True, **LLAMA}),
]
GPT2_SIZES = {"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 16}


def quiet(message: str) -> None:
    pass


@pytest.fixture
def letters() -> CharTokenizer:
    return CharTokenizer([chr(0x21 + i) for i in range(70)], {"control": ["<song>", "</song>"]})


@pytest.fixture
def make_run(random_model, save_run, letters):
    def make(preset: str = "gpt2", name: str = "run", **sizes: object) -> Path:
        return save_run(random_model(preset, vocab_size=letters.vocab_size, **sizes), letters, name)

    return make


@pytest.fixture
def exported(make_run, tmp_path) -> Path:
    """A small GPT-2 folder, to be tampered with."""
    return api.export(make_run(**GPT2_SIZES), tmp_path / "hf", say=quiet)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", {"format": "pt"})


def refused(folder: Path, *expected: str) -> None:
    """Importing `folder` fails in one line that has `expected` in it, and leaves nothing behind."""
    with pytest.raises(UsageError) as caught:
        api.import_model(folder, folder.parent / "never", say=quiet)
    for text in expected:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder.parent / "never").exists()


# The round trip


@pytest.mark.parametrize(("preset", "sizes"), SHAPES)
@pytest.mark.parametrize("shard_bytes", [2 * 10**9, 20_000])
def test_export_import_export_is_the_same_to_the_byte(preset, sizes, shard_bytes, make_run, tmp_path):
    run = make_run(preset, **sizes)
    first = api.export(run, tmp_path / "first", shard_bytes=shard_bytes, say=quiet)
    back = api.import_model(first, tmp_path / "back", say=quiet)
    second = api.export(back, tmp_path / "second", shard_bytes=shard_bytes, say=quiet)
    assert contents(first) == contents(second)
    assert ("model.safetensors" in contents(first)) == (shard_bytes > 20_000)
    before, after = (api.load(path, device="cpu", say=quiet) for path in (run, back))
    ids = torch.randint(before.tokenizer.vocab_size, (2, 16))
    assert torch.equal(before.model(ids), after.model(ids))


def test_generation_settings_and_the_tokenizer_come_back(random_model, save_run, letters, tmp_path):
    settings = {"temperature": 0.3, "top_k": 5, "max_new_tokens": 7, "start_document": True}
    run = save_run(random_model(vocab_size=letters.vocab_size), letters, **settings)
    back = api.load(api.import_model(api.export(run, tmp_path / "hf", say=quiet), tmp_path / "back", say=quiet))
    assert back.tokenizer.fingerprint == letters.fingerprint
    assert {name: getattr(back.config.generate, name) for name in settings} == settings
    assert back.generate("abc") == api.load(run).generate("abc")


def test_an_imported_run_serves_every_command_but_resume(exported, tmp_path, capsys):
    back = str(tmp_path / "back")
    assert command(["import", str(exported), "--out", back], 0.0) == 0
    assert command(["generate", back, "abc", "--max-new-tokens", "3"], 0.0) == 0
    assert command(["info", back], 0.0) == 0
    assert command(["export", back, "--to", "hf", "--out", str(tmp_path / "again")], 0.0) == 0
    capsys.readouterr()
    assert command(["train", "--resume", back], 0.0) == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert command(["import", str(exported), "--out", back], 0.0) == 2  # it is there, and stays
    assert command(["import", str(exported), "--out", back, "--overwrite"], 0.0) == 0


def test_runs_without_biases_and_gains_are_written_with_zeros_and_ones(make_run, tmp_path):
    run = make_run(bias=False, norm_gain=False, **GPT2_SIZES)
    back = api.import_model(api.export(run, tmp_path / "hf", say=quiet), tmp_path / "back", say=quiet)
    before, after = api.load(run), api.load(back)
    ids = torch.randint(before.tokenizer.vocab_size, (2, 16))
    torch.testing.assert_close(before.model(ids), after.model(ids), atol=1e-6, rtol=0)


def test_what_no_other_program_has_is_refused_with_the_nearest_that_works(make_run, tmp_path):
    run = make_run("prime")
    with pytest.raises(UsageError, match=r"model\.mlp = 'relu2'.*--model\.preset qwen3"):
        api.export(run, tmp_path / "hf", say=quiet)
    assert not (tmp_path / "hf").exists()


def test_export_never_overwrites(exported, make_run):
    with pytest.raises(UsageError, match="already there"):
        api.export(make_run(name="other"), exported, say=quiet)


def test_a_damaged_checkpoint_is_not_exported(make_run, tmp_path):
    run = make_run(**GPT2_SIZES)
    weights = run / "checkpoints" / "step-000000" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(Exception, match="damaged"):
        api.export(run, tmp_path / "hf", say=quiet)


# Folders as others write them


def test_the_hubs_gpt2_has_other_names_and_buffers(exported, tmp_path):
    def as_on_the_hub(weights):
        bare = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
        return bare | {"h.0.attn.bias": torch.ones(1, 1, 16, 16), "h.1.attn.masked_bias": torch.tensor(-1e4)}

    before = api.load(api.import_model(exported, tmp_path / "before", say=quiet)).model.weights()
    edit_weights(exported, as_on_the_hub)
    after = api.load(api.import_model(exported, tmp_path / "after", say=quiet)).model.weights()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_half_precision_and_a_copy_of_the_tied_head_are_read(exported, tmp_path):
    def halved(weights):
        halves = {name: tensor.bfloat16() for name, tensor in weights.items()}
        return halves | {"lm_head.weight": halves["transformer.wte.weight"].clone()}

    edit_weights(exported, halved)
    weights = api.load(api.import_model(exported, tmp_path / "back", say=quiet)).model.weights()
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_rows_beyond_the_tokenizer_are_padding(exported, letters, tmp_path):
    def padded(weights):
        more = torch.cat([weights["transformer.wte.weight"], torch.full((22, 16), 9.0)])
        return weights | {"transformer.wte.weight": more}

    edit_weights(exported, padded)
    edit_json(exported / "config.json", vocab_size=letters.vocab_size + 22)
    run = api.load(api.import_model(exported, tmp_path / "back", say=quiet))
    assert run.model(torch.tensor([[5]])).shape[-1] == letters.vocab_size
    assert not run.model.wte.weight[letters.vocab_size :].any()


def test_another_tokenizer_can_be_named(exported, letters, tmp_path):
    store.save(letters, tmp_path / "mine")
    for name in ("primegpt.json", "tokenizer.json"):
        (exported / name).unlink()
    refused(exported, "no tokenizer", "--tokenizer")
    path = api.import_model(exported, tmp_path / "back", tokenizer=tmp_path / "mine", say=quiet)
    assert api.load(path).tokenizer.fingerprint == letters.fingerprint


def test_nothing_is_fetched_without_a_network(monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert command(["import", "someone/some-model-that-is-not-here"], 0.0) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "hub" in error


def test_links_of_the_hubs_cache_are_followed(exported, tmp_path):
    repository = tmp_path / "models--someone--gpt"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(exported.iterdir())):
        path.rename(repository / "blobs" / str(number))
        (snapshot / path.name).symlink_to(os.path.join("..", "..", "blobs", str(number)))
    assert api.load(api.import_model(snapshot, tmp_path / "back", say=quiet)).model is not None


# Folders that mean harm, or are broken


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(exported, file):
    edit_json(exported / file, auto_map={"AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.T", None]})
    (exported / "primegpt_evil.py").write_text("raise SystemExit('executed')")
    refused(exported, file, "auto_map")


def test_a_pickle_is_refused_with_the_way_to_convert_it(exported, tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"transformer.wte.weight": Payload()}, exported / "pytorch_model.bin")
    (exported / "model.safetensors").unlink()
    refused(exported, "pytorch_model.bin", "save_pretrained")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", 7, None])
def test_an_index_that_leads_elsewhere_is_refused(exported, tmp_path, name):
    (exported / "model.safetensors").rename(tmp_path / "outside.safetensors")
    weight_map = {"weight_map": {"transformer.wte.weight": name}}
    (exported / "model.safetensors.index.json").write_text(json.dumps(weight_map))
    refused(exported, "index.json", "transformer.wte.weight", repr(name))


def test_a_link_out_of_the_folder_is_refused(exported, tmp_path):
    (exported / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (exported / "model.safetensors").symlink_to(tmp_path / "outside.safetensors")
    refused(exported, "model.safetensors", "outside")


def test_a_shard_without_what_the_index_says_is_refused(make_run, tmp_path):
    folder = api.export(make_run(**GPT2_SIZES), tmp_path / "hf", shard_bytes=8000, say=quiet)
    index = folder / "model.safetensors.index.json"
    where = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map={**where, "transformer.wpe.weight": where["transformer.ln_f.weight"]})
    refused(folder, "transformer.wpe.weight", "lacks")
    edit_json(index, weight_map={name: file for name, file in where.items() if name != "transformer.wpe.weight"})
    refused(folder, "transformer.wpe.weight", "does not know")
    edit_json(index, weight_map=where)
    (folder / where["transformer.wpe.weight"]).unlink()
    refused(folder, where["transformer.wpe.weight"], "missing")


def test_a_wrong_shape_is_named(exported):
    edit_weights(exported, lambda w: w | {"transformer.h.1.mlp.c_fc.weight": torch.zeros(16, 63)})
    refused(exported, "transformer.h.1.mlp.c_fc.weight", "[16, 63]", "[16, 64]")


def test_an_untransposed_matrix_is_a_wrong_shape(exported):
    edit_weights(exported, lambda w: w | {"transformer.h.0.mlp.c_fc.weight": torch.zeros(64, 16)})
    refused(exported, "transformer.h.0.mlp.c_fc.weight")


def test_a_missing_tensor_is_named(exported):
    edit_weights(exported, lambda w: {name: t for name, t in w.items() if name != "transformer.h.1.ln_2.bias"})
    refused(exported, "lacks", "transformer.h.1.ln_2.bias")


def test_an_extra_tensor_is_named(exported):
    edit_weights(exported, lambda w: w | {"transformer.h.2.ln_1.weight": torch.zeros(16)})
    refused(exported, "transformer.h.2.ln_1.weight", "no GPT-2")


def test_a_head_that_is_not_tied_as_promised_is_refused(exported):
    edit_weights(exported, lambda w: w | {"lm_head.weight": w["transformer.wte.weight"] + 1})
    refused(exported, "lm_head.weight", "ties")


def test_whole_numbers_are_no_weights(exported):
    edit_weights(exported, lambda w: w | {"transformer.ln_f.bias": torch.zeros(16, dtype=torch.int8)})
    refused(exported, "transformer.ln_f.bias", "I8")


@pytest.mark.parametrize("kept", [0, 4, 8, 200, -1])
def test_a_truncated_file_is_named(exported, kept):
    path = exported / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(exported, "model.safetensors", "not a whole safetensors file")


@pytest.mark.parametrize("claimed", [2**63, 2**40, 2**24 + 1])
def test_a_header_that_claims_to_be_huge_is_refused(exported, claimed):
    (exported / "model.safetensors").write_bytes(struct.pack("<Q", claimed) + b"{}")
    refused(exported, "model.safetensors", "header")


def test_sizes_that_would_fill_the_memory_are_refused_before_anything_is_made(exported):
    edit_json(exported / "config.json", n_layer=2**31)
    refused(exported, "lacks the tensor 'transformer.h.2.ln_1.weight'")
    edit_json(exported / "config.json", n_layer=2, vocab_size=2**31)
    refused(exported, "transformer.wte.weight", "2147483648")
    for value in (2**40, -1, 0, 1.5, "16", None, True):
        edit_json(exported / "config.json", vocab_size=value)
        refused(exported, "config.json", "vocab_size", repr(value))


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, "\xff"])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_file_that_is_no_json_object_is_named(exported, file, content):
    (exported / file).write_bytes(content.encode("latin-1"))
    refused(exported, file)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"activation_function": "relu"}, "activation_function"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"n_head": 3}, "n_head"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"tie_word_embeddings": False}, "lm_head.weight"),
    ],
)
def test_a_gpt2_setting_that_changes_the_function_is_refused(exported, values, named):
    edit_json(exported / "config.json", **values)
    refused(exported, named)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "linear"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": "x"}, "rope_scaling"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"attention_bias": True}, "bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["sliding_attention"]}, "sliding_attention"),
        ({"num_key_value_heads": 3}, "n_kv_head"),
    ],
)
@pytest.mark.parametrize("switches", [{}, LLAMA])
def test_a_llama_setting_that_changes_the_function_is_refused(make_run, tmp_path, switches, values, named):
    folder = api.export(make_run("qwen3", n_layer=1, n_kv_head=2, **switches), tmp_path / "hf", say=quiet)
    edit_json(folder / "config.json", **values)
    refused(folder, named)


def test_a_path_that_is_not_there_is_no_hub_id(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        huggingface.find_folder(str(tmp_path / "missing" / "folder"))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        huggingface.find_folder(str(tmp_path / "file"))


def test_a_disk_that_fills_up_leaves_nothing(make_run, tmp_path, monkeypatch):
    run = make_run(**GPT2_SIZES)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("primegpt.run.atomic.write_synced", full)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(Exception, match="No space left"):
        api.export(run, tmp_path / "hf", say=quiet)
    assert set(tmp_path.rglob("*")) == before
