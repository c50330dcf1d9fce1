"""Transformers folders: out and in again without a bit lost, and nothing accepted that is not what it should be."""

import json
import os
import re
import shlex
import struct
import subprocess
import sys
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
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
STRETCHED = {"rope_type": "llama3", "rope_factor": 4.0, "rope_original_context": 16, "rope_low_freq_factor": 0.5}
SHAPES = [
    ("gpt2", {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 48}),
    ("gpt2", {"n_layer": 1, "n_head": 2, "n_embd": 24, "intermediate_size": 40, "tie_embeddings": False}),
    ("qwen3", {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "head_dim": 16, "rope_theta": 1e6}),
    ("qwen3", {"n_layer": 1, "n_head": 6, "n_kv_head": 1, "n_embd": 24, "head_dim": 10, "tie_embeddings": False}),
    ("qwen3", {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "bias": True, **LLAMA}),
    ("llama", {"n_layer": 1, "n_kv_head": 2, "attention_bias": "all", **STRETCHED}),
    ("mistral", {"n_layer": 1, "n_kv_head": 2, "head_dim": 12, "rope_type": "linear", "rope_factor": 3.0}),
    ("qwen2", {"n_layer": 2, "n_kv_head": 2, "tie_embeddings": False}),
    ("qwen3", {"n_layer": 1, "attention_bias": "all", **STRETCHED}),
    ("prime", {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "logit_softcap": 15.0}),
    ("prime", {"n_layer": 1, "n_head": 2, "n_embd": 24, "head_dim": 10, "tie_embeddings": True}),
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
    model_type = {"prime": "nanochat"}.get(preset, "llama" if LLAMA.items() <= sizes.items() else preset)
    assert json.loads((first / "config.json").read_text())["model_type"] == model_type
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


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_penalty_and_the_least_share_come_back(random_model, save_run, letters, tmp_path, temperature):
    settings = {"temperature": temperature, "repetition_penalty": 1.25, "min_p": 0.05 if temperature else 0.0}
    run = save_run(random_model(vocab_size=letters.vocab_size), letters, **settings)
    folder = api.export(run, tmp_path / "hf", say=quiet)
    said = json.loads((folder / "generation_config.json").read_text())
    assert said["repetition_penalty"] == 1.25
    assert said.get("min_p") == (0.05 if temperature else None)
    back = api.load(api.import_model(folder, tmp_path / "back", say=quiet))
    assert {name: getattr(back.config.generate, name) for name in settings} == settings


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
    run = make_run("prime", embedding_norm=False)
    with pytest.raises(UsageError, match=r"NanoChat it differs in model\.embedding_norm = False .*preset prime"):
        api.export(run, tmp_path / "hf", say=quiet)
    assert not (tmp_path / "hf").exists()


def test_nanochat_has_a_softcap_where_nothing_is_said(make_run, tmp_path):
    folder = api.export(make_run("prime"), tmp_path / "hf", say=quiet)
    values = json.loads((folder / "config.json").read_text())
    assert values["final_logit_softcapping"] is None
    assert huggingface.open_model(folder).model.logit_softcap is None
    del values["final_logit_softcapping"]
    (folder / "config.json").write_text(json.dumps(values))
    assert huggingface.open_model(folder).model.logit_softcap == 15.0


def test_nanochat_turns_the_other_way(make_run, tmp_path):
    """Each head's halves of queries and keys change places, values and all else stay."""
    run = make_run("prime", n_layer=1, n_head=4, n_kv_head=2, n_embd=32)
    ours = api.load(run, device="cpu").model.weights()["h.0.attn.c_attn.weight"]
    theirs = load_file(api.export(run, tmp_path / "hf", say=quiet) / "model.safetensors")
    rows = [*range(4, 8), *range(4)]  # of a head, 8 wide
    assert torch.equal(theirs["model.layers.0.self_attn.q_proj.weight"][8:16], ours[8:16][rows])
    assert torch.equal(theirs["model.layers.0.self_attn.k_proj.weight"][:8], ours[32:40][rows])
    assert torch.equal(theirs["model.layers.0.self_attn.v_proj.weight"], ours[48:])


def test_the_original_context_is_looked_for_where_transformers_looks(make_run, tmp_path):
    folder = api.export(make_run("llama", rope_type="llama3", block_size=64), tmp_path / "hf", say=quiet)
    edit_json(folder / "config.json", rope_scaling=None, rope_parameters=LLAMA3)
    assert huggingface.open_model(folder).model.rope_original_context == 64  # nothing is said
    edit_json(folder / "config.json", rope_parameters={**LLAMA3, "original_max_position_embeddings": 16})
    assert huggingface.open_model(folder).model.rope_original_context == 16
    edit_json(folder / "config.json", original_max_position_embeddings=32)
    assert huggingface.open_model(folder).model.rope_original_context == 32


def test_the_base_of_rotary_positions_is_looked_for_where_transformers_looks(make_run, tmp_path):
    """There rope_scaling takes the place of rope_parameters, base and all."""
    folder = api.export(make_run("llama", block_size=64), tmp_path / "hf", say=quiet)
    theirs = {"rope_type": "default", "rope_theta": 5e5}
    linear = {"rope_type": "linear", "factor": 2.0}
    for values, base in (
        ({"rope_theta": 7e5, "rope_parameters": theirs, "rope_scaling": None}, 5e5),
        ({"rope_theta": 7e5, "rope_parameters": theirs, "rope_scaling": linear}, 7e5),
        ({"rope_theta": None, "rope_parameters": theirs, "rope_scaling": linear}, 1e4),
        ({"rope_theta": 7e5, "rope_parameters": theirs, "rope_scaling": {**linear, "rope_theta": 3e5}}, 3e5),
        ({"rope_theta": 7e5, "rope_parameters": linear, "rope_scaling": None}, 7e5),
    ):
        edit_json(folder / "config.json", **values)
        assert huggingface.open_model(folder).model.rope_theta == base, values


@pytest.mark.parametrize("preset", ["qwen2", "qwen3", "llama"])
def test_null_heads_of_keys_and_values_are_as_many_as_of_queries(make_run, tmp_path, preset):
    folder = api.export(make_run(preset, n_layer=1, n_head=4, n_kv_head=4), tmp_path / "hf", say=quiet)
    edit_json(folder / "config.json", num_key_value_heads=None)
    assert huggingface.open_model(folder).model.kv_heads == 4


def test_heads_that_do_not_divide_the_width_are_refused(make_run, tmp_path):
    folder = api.export(make_run("llama", n_layer=1, n_head=4, n_embd=32), tmp_path / "hf", say=quiet)
    edit_json(folder / "config.json", num_attention_heads=3, num_key_value_heads=3)
    refused(folder, "config.json", "model.n_head = 3")


def test_a_window_that_slides_is_the_context(make_run, tmp_path, capsys):
    """Within it nothing slides."""
    folder = api.export(make_run("mistral", block_size=64), tmp_path / "mistral", say=quiet)
    assert huggingface.open_model(folder).model.block_size == 64
    for window, context in ((64, 64), (100, 64), (24, 24), (None, 64)):
        edit_json(folder / "config.json", sliding_window=window)
        assert huggingface.open_model(folder).model.block_size == context
    edit_json(folder / "config.json", sliding_window=24)
    said: list[str] = []
    api.import_model(folder, tmp_path / "back", say=said.append)
    assert "24 of its 64 positions" in said[0]
    folder = api.export(make_run("qwen2", name="other"), tmp_path / "qwen2", say=quiet)
    layers = {"layer_types": ["full_attention", "sliding_attention"]}
    edit_json(folder / "config.json", use_sliding_window=False, sliding_window=24)
    assert huggingface.open_model(folder).model.block_size == 64
    edit_json(folder / "config.json", use_sliding_window=True, **layers)
    assert huggingface.open_model(folder).model.block_size == 24


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


def wrapped_inside(name: str) -> str:
    """As FSDP and torch.compile name what they wrap block by block."""
    for block in ("transformer.h.1.", "model.layers.0."):
        name = name.replace(block, f"{block}_fsdp_wrapped_module._orig_mod.")
    return f"_fsdp_wrapped_module.{name}"


PREFIXES = {
    "compiled": "_orig_mod.{}".format,
    "ddp of a compiled one": "module._orig_mod.{}".format,
    "an attribute of something": "model.{}".format,
    "of something else": "student.net.{}".format,
    "fsdp": wrapped_inside,
    "no head": lambda name: name.removeprefix("transformer.").removeprefix("model."),
    "a compiled one without a head": lambda name: (
        "_orig_mod." + name.removeprefix("transformer.").removeprefix("model.")
    ),
}


@pytest.mark.parametrize("rename", PREFIXES.values(), ids=PREFIXES)
@pytest.mark.parametrize(("preset", "tied"), [("gpt2", True), ("gpt2", False), ("qwen3", False)])
def test_what_wrappers_put_before_names_is_understood(make_run, tmp_path, preset, tied, rename):
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "tie_embeddings": tied}
    folder = api.export(make_run(preset, **sizes), tmp_path / "hf", say=quiet)
    before = api.load(api.import_model(folder, tmp_path / "before", say=quiet)).model.weights()
    edit_weights(folder, lambda weights: {rename(name): tensor for name, tensor in weights.items()})
    after = api.load(api.import_model(folder, tmp_path / "after", say=quiet)).model.weights()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_model_that_is_there_twice_is_refused(exported):
    edit_weights(exported, lambda w: w | {f"_orig_mod.{name}": tensor.clone() for name, tensor in w.items()})
    refused(exported, "_orig_mod.transformer.", "keep one of them")
    edit_weights(exported, lambda w: {n.replace("_orig_mod", "teacher"): tensor for n, tensor in w.items()})
    refused(exported, "holds the tensor 'teacher.transformer")


@pytest.mark.parametrize("bias", [True, False])
def test_the_documents_script_makes_a_folder_of_nanogpts_checkpoint(random_model, tmp_path, monkeypatch, letters, bias):
    """Our names and shapes are nanoGPT's; a compiled model's have a prefix, and the head is there twice."""
    monkeypatch.chdir(tmp_path)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 24, "vocab_size": letters.vocab_size}
    model = random_model("gpt2", bias=bias, **sizes)
    weights = {f"_orig_mod.transformer.{name}": w for name, w in model.weights().items()}
    weights["_orig_mod.lm_head.weight"] = weights["_orig_mod.transformer.wte.weight"]
    args = {**sizes, "vocab_size": model.config.padded_vocab_size, "bias": bias, "dropout": 0.0}
    torch.save({"model": weights, "model_args": args, "iter_num": 7, "best_val_loss": torch.tensor(1.0)}, "ckpt.pt")
    page = (Path(__file__).parents[2] / "docs" / "interop.md").read_text(encoding="utf-8")
    exec(re.search(r"```python\n(import json.*?)```", page, re.DOTALL)[1], {})
    store.save(letters, tmp_path / "mine")
    path = api.import_model("nanogpt-hf", tmp_path / "run", tokenizer=tmp_path / "mine", say=quiet)
    ids = torch.randint(letters.vocab_size, (2, 24))
    torch.testing.assert_close(api.load(path, device="cpu").model(ids), model(ids), atol=1e-6, rtol=0)


# Folders that mean harm, or are broken


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(exported, value):
    def spoilt(weights):
        weights["transformer.h.1.mlp.c_fc.weight"][3, 5] = value
        return weights

    edit_weights(exported, spoilt)
    refused(exported, "model.safetensors", "transformer.h.1.mlp.c_fc.weight", "1 NaN or infinite values")


ABSURD = [
    10**400,
    10**9,
    -1,
    0,
    1e-300,
    1e300,
    float("nan"),
    float("inf"),
    True,
    "x",
    "x" * 10_000,
    None,
    [],
    [[1]],
    {},
]


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("preset", ["gpt2", "qwen3", "prime"])
def test_absurd_values_are_refused_in_one_line_or_mean_nothing(make_run, tmp_path, preset, file):
    """Every key in turn. What is accepted is the same model: left out, or a key that decides nothing here."""
    folder = api.export(make_run(preset, n_layer=1, n_head=2, n_embd=16), tmp_path / "hf", say=quiet)
    values = json.loads((folder / file).read_text())
    more = {"layer_types": None, "rope_scaling": None, "use_sliding_window": None, "quantization_config": None}
    for key in values | (more if file == "config.json" else {}):
        for value in ABSURD:
            (folder / file).write_text(json.dumps(values | {key: value}))
            found, told = None, ""
            try:
                found = huggingface.open_model(folder)
            except UsageError as error:
                told = str(error)
            assert "\n" not in told
            assert len(told) < 600 + len(str(folder)), (key, value)
            if found:
                assert (found.model.n_embd, found.model.n_layer) == (16, 1)
                assert found.generate.get("max_new_tokens", 200) <= 2**20


def test_a_context_of_a_billion_is_refused_before_anything_is_made(make_run, tmp_path):
    folder = api.export(make_run("qwen3", n_layer=1), tmp_path / "hf", say=quiet)
    edit_json(folder / "config.json", max_position_embeddings=10**9)
    refused(folder, "config.json", "block_size = 1000000000", "less than or equal to 1048576")


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
    refused(exported, "pytorch_model.bin", "weights_only=True")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("shards", [1, 2])
def test_the_command_that_converts_a_pickle_keeps_the_tokenizer(exported, tmp_path, letters, shards):
    before = api.load(api.import_model(exported, tmp_path / "before", say=quiet))
    weights = load_file(exported / "model.safetensors")
    weights["lm_head.weight"] = weights["transformer.wte.weight"]  # shared, as Transformers pickles a tied head
    (exported / "model.safetensors").unlink()
    torch.save({}, exported / "training_args.bin")
    for number in range(shards):
        name = f"pytorch_model-0000{number + 1}-of-00002.bin" if shards > 1 else "pytorch_model.bin"
        torch.save(dict(list(weights.items())[number::shards]), exported / name)
    with pytest.raises(UsageError) as caught:
        api.import_model(exported, tmp_path / "after", say=quiet)
    command = shlex.split(str(caught.value).partition("tensors alone: ")[2])
    subprocess.run([sys.executable, *command[1:]], check=True)
    after = api.load(api.import_model(exported, tmp_path / "after", say=quiet))
    assert after.tokenizer.fingerprint == before.tokenizer.fingerprint == letters.fingerprint
    assert all(torch.equal(w, before.model.weights()[name]) for name, w in after.model.weights().items())


@pytest.mark.parametrize(
    ("name", "beside", "expected"),
    [
        ("model.gguf", False, ["cut short"]),
        ("ckpt.pt", False, ["a pickle", "no config.json", "docs/interop.md"]),
        ("model.bin", False, ["a pickle", "no config.json"]),
        ("pytorch_model.bin", True, ["is a file", "name the folder"]),
        ("model.safetensors", True, ["is a file", "name the folder"]),
    ],
)
def test_a_file_in_place_of_a_folder_is_told_for_what_it_is(tmp_path, name, beside, expected):
    (tmp_path / name).write_bytes(b"no")
    if beside:
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError) as caught:
        api.import_model(tmp_path / name, tmp_path / "never", say=quiet)
    assert all(text in str(caught.value) for text in expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", 7, None])
def test_an_index_that_leads_elsewhere_is_refused(exported, tmp_path, name):
    (exported / "model.safetensors").rename(tmp_path / "outside.safetensors")
    weight_map = {"weight_map": {"transformer.wte.weight": name}}
    (exported / "model.safetensors.index.json").write_text(json.dumps(weight_map))
    refused(exported, "index.json", "transformer.wte.weight", repr(name))


def test_an_index_entry_of_5000_characters_is_refused(exported):
    (exported / "model.safetensors").unlink()
    weight_map = {"weight_map": {"transformer.wte.weight": "m" * 5000 + ".safetensors"}}
    (exported / "model.safetensors.index.json").write_text(json.dumps(weight_map))
    refused(exported, "could not open", "File name too long")


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
    edit_json(exported / "config.json", n_layer=999)
    refused(exported, "lacks the tensor 'transformer.h.2.ln_1.weight'")
    edit_json(exported / "config.json", n_layer=2, vocab_size=10**6)
    refused(exported, "transformer.wte.weight", "1000000")
    edit_json(exported / "config.json", vocab_size=2**31)
    refused(exported, "config.json", "vocab_size = 2147483648", "2000000")
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
        ({"activation_function": "gelu"}, "activation_function"),
        ({"activation_function": "relu"}, "activation_function"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"is_causal": False}, "is_causal"),
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
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0.5}}, "rope_factor = 0.5"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 2}}, "beta_fast"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}}, "high_freq_factor"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}}, "is not below model.rope_high_freq_factor"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": "x"}, "rope_scaling"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"is_causal": False}, "is_causal"),
        ({"attention_bias": True}, "bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True, "sliding_window": "x"}, "sliding_window"),
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
