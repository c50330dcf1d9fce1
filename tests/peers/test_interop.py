"""What is exported works elsewhere with nothing of ours, and what others saved works here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from primegpt import api, tokenizers
from primegpt.config import LORA_TARGETS, GenerateConfig, LoRAConfig
from primegpt.interop.peft import write_adapter
from primegpt.model.gpt import GPT
from primegpt.model.lora import adapters, add_lora, merged_weights, trainable_share
from primegpt.tokenizers.char import CharTokenizer

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

CONTROLS = {"control": ["<prompt>", "<song>", "</song>"], "structure": ["[chorus]"]}
CORPUS = "the river ran under a bridge of stone — and the song went on until mörning, it's 12 o'clock\n" * 60
# Spellings of special tokens are a matter of their own (docs/interop.md).
AWKWARD = [
    "", " ", "   leading and trailing   ", "\n", "\r\n mixed \r ends \n\n\n", "\t\ttabs\t", "it's we'll I'VE o'clock",
    "1234567890 12,345.67", "naïve café — “quotes” …", "日本語テキスト。", "Привет, мир!", "العربية עברית",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽", "e\u0301 vs é", "a\u0000b\u0007c", "\u00a0\u2003\u2028\u2581 spaces", "\ufeffBOM \ufffd \uffff",
    "x" * 300, "  \n \n\t \n", "def f(x):\n    return x**2  # <not special>",
]  # fmt: skip


def quiet(message: str) -> None:
    pass


def bpe() -> tokenizers.Tokenizer:
    return tokenizers.train("bpe", [CORPUS], 330, CONTROLS)


def sentencepiece() -> tokenizers.Tokenizer:
    return tokenizers.train("sentencepiece", [CORPUS], 360, CONTROLS)


def char() -> tokenizers.Tokenizer:
    return CharTokenizer("".join(AWKWARD).replace("P", ""), CONTROLS)  # one character of them stays unknown


ELSEWHERE = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, texts, prompt = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
inputs = tokenizer(prompt, return_tensors="pt")
greedy = model.generate(**inputs, do_sample=False, max_new_tokens=50, min_new_tokens=50)
print(json.dumps({
    "ids": [tokenizer(text)["input_ids"] for text in texts],
    "back": [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts],
    "spelt": tokenizer("a <song> b")["input_ids"],
    "split": tokenizer("a <song> b", split_special_tokens=True)["input_ids"],
    "skipped": tokenizer.decode(tokenizer("ab<song>[chorus]")["input_ids"], skip_special_tokens=True),
    "prompt": inputs["input_ids"][0].tolist(),
    "greedy": greedy[0].tolist(),
    "special": [tokenizer.eos_token, tokenizer.pad_token],
    "vocabulary": len(tokenizer),
    "known": {name: tokenizer.convert_tokens_to_ids(name) for name in ("<prompt>", "<song>", "</song>")},
    "ours": [name for name in sys.modules if name.startswith("primegpt")],
}))
"""


def elsewhere(folder: Path, prompt: str) -> dict:
    """What Transformers makes of `folder`, in a process that imports nothing of ours."""
    arguments = [sys.executable, "-c", ELSEWHERE, str(folder), json.dumps(AWKWARD), prompt]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


@pytest.mark.parametrize(("preset", "make_tokenizer"), [("gpt2", bpe), ("qwen3", sentencepiece), ("gpt2", char)])
def test_an_exported_folder_works_with_nothing_of_ours(preset, make_tokenizer, random_model, save_run, tmp_path):
    tokenizer = make_tokenizer()
    model = random_model(preset, vocab_size=tokenizer.vocab_size, block_size=80)
    run = save_run(model, tokenizer)
    theirs = elsewhere(api.export(run, tmp_path / "hf", say=quiet), "the river")
    assert theirs["ours"] == []
    assert theirs["vocabulary"] == tokenizer.vocab_size
    assert theirs["ids"] == [tokenizer.encode(text) for text in AWKWARD]
    assert theirs["back"] == [tokenizer.decode(tokenizer.encode(text)) for text in AWKWARD]
    song = tokenizer.token_id("<song>")
    assert theirs["spelt"] == [*tokenizer.encode("a "), song, *tokenizer.encode(" b")]
    assert theirs["split"] == tokenizer.encode("a <song> b")
    assert theirs["skipped"] == "ab"
    assert theirs["known"] == {name: tokenizer.special_tokens[name] for name in CONTROLS["control"]}
    assert theirs["special"] == [tokenizer.eot_token, tokenizer.pad_token or tokenizer.eot_token]
    assert theirs["prompt"] == tokenizer.encode("the river")
    assert theirs["greedy"][len(theirs["prompt"]) :] == greedy(model, theirs["prompt"], tokenizer.eot_id)


def greedy(model: GPT, ids: list[int], never: int, n: int = 50) -> list[int]:
    """The likeliest token, n times, but for the end of text (Transformers forbids it through min_new_tokens)."""
    with torch.inference_mode():
        for _ in range(n):
            logits = model(torch.tensor([ids]), logits_for="last")[0, -1]
            logits[never] = float("-inf")
            ids = [*ids, int(logits.argmax())]
    return ids[-n:]


def test_greedy_text_of_a_run_is_theirs_through_both_commands(random_model, save_run, tmp_path):
    """The generator that users call, not only the model: settings, stop ids and all."""
    tokenizer = bpe()
    run = save_run(random_model("gpt2", vocab_size=tokenizer.vocab_size, block_size=80), tokenizer)
    folder = api.export(run, tmp_path / "hf", say=quiet)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompt = torch.tensor([tokenizer.encode("the river")])
    expected = theirs.generate(prompt, do_sample=False, max_new_tokens=50)[0, prompt.size(1) :].tolist()
    opened = api.load(run, device="cpu")
    settings = GenerateConfig(temperature=0.0, max_new_tokens=50)
    (ours,) = opened.generator().generate(["the river"], settings)[0]
    assert ours.ids == [i for i in expected if i != tokenizer.eot_id]
    assert len(ours.ids) == 50


THEIRS = {
    "gpt2": lambda V: transformers.GPT2Config(vocab_size=V, n_positions=40, n_embd=32, n_layer=2, n_head=4),
    "gpt2-inner": lambda V: transformers.GPT2Config(
        vocab_size=V + 9, n_positions=33, n_embd=24, n_layer=3, n_head=2, n_inner=50, tie_word_embeddings=False
    ),
    "qwen3": lambda V: transformers.Qwen3Config(
        vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=40, tie_word_embeddings=True,
    ),
    "qwen3-untied": lambda V: transformers.Qwen3Config(
        vocab_size=V + 30, hidden_size=24, intermediate_size=50, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=1, head_dim=10, max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "llama": lambda V: transformers.LlamaConfig(
        vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=40,
    ),
    "llama-bias": lambda V: transformers.LlamaConfig(
        vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=40, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("max_shard_size", ["1GB", "20KB"])
@torch.inference_mode()
def test_what_transformers_saved_gives_its_logits_here(kind, max_shard_size, tmp_path):
    tokenizer = bpe()
    torch.manual_seed(0)
    config = THEIRS[kind](tokenizer.vocab_size)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in theirs.named_parameters():
        gain = parameter.dim() == 1 and name.endswith("weight")
        parameter.normal_(float(gain), 0.2)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=max_shard_size)
    for name, content in tokenizer._files().items():
        (tmp_path / "theirs" / name).write_bytes(content)
    opened = api.load(api.import_model(tmp_path / "theirs", tmp_path / "run", say=quiet), device="cpu")
    ids = torch.randint(tokenizer.vocab_size, (3, opened.config.model.block_size))
    ours = opened.model(ids)
    assert ours.std() > 0.3
    torch.testing.assert_close(ours, theirs(ids).logits[..., : tokenizer.vocab_size], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("preset", "sizes"), [
    ("gpt2", {}), ("qwen3", {"n_kv_head": 2, "head_dim": 12}), ("qwen3", {"qk_norm": False, "bias": True}),
])  # fmt: skip
@pytest.mark.parametrize("targets", [("attn.c_attn",), LORA_TARGETS])
@torch.inference_mode()
def test_peft_puts_our_adapter_onto_the_exported_model(preset, sizes, targets, random_model, save_run, tmp_path):
    peft = pytest.importorskip("peft")
    letters = CharTokenizer(chr(0x100 + i) for i in range(96))
    model = random_model(preset, **sizes)
    folder = api.export(save_run(model, letters), tmp_path / "hf", say=quiet)
    ids = torch.randint(100, (2, 20))
    plain = model(ids)
    lora = LoRAConfig(rank=4, alpha=10, targets=targets)
    add_lora(model, lora)
    assert trainable_share(model) < 0.5
    layers = {}
    for name, layer in adapters(model):
        layer.lora_b.normal_(0.0, 0.2)
        layers[name] = (layer.lora_a, layer.lora_b)
    write_adapter(tmp_path / "adapter", model.config, lora, layers, base="base")
    ours = model(ids)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert (ours - plain).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs(ids).logits, atol=1e-4, rtol=0)
    merged = GPT(model.config).load_weights(merged_weights(model)).eval()
    torch.testing.assert_close(merged(ids), theirs.merge_and_unload()(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["sentencepiece", "bpe"])
def test_a_trained_songbook_run_sings_elsewhere_with_its_control_tokens(kind, tmp_path):
    settings = {
        "data": {"songs": 60, "val_tokens": 500},
        "tokenizer": {"kind": kind, "vocab_size": 500, "special_tokens": CONTROLS},
        "model": {"preset": "qwen3", "n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 96},
        "train": {
            "max_steps": 20,
            "batch_size": 8,
            "device": "cpu",
            "threads": 1,
            "sample_interval": 20,
            "eval_interval": 20,
        },
    }
    run = api.train("songbook", out=tmp_path / "run", settings=settings, say=quiet)
    folder = api.export(tmp_path / "run", tmp_path / "hf", say=quiet)
    theirs = elsewhere(folder, "<prompt>a sad song<song>[chorus]")
    tokenizer = run.tokenizer
    names = ("<prompt>", "<song>", "[chorus]")
    ids = [tokenizer.token_id(name) for name in names]
    assert theirs["prompt"] == [ids[0], *tokenizer.encode("a sad song"), *ids[1:]]
    assert theirs["known"]["</song>"] == tokenizer.token_id("</song>")
    assert theirs["ids"] == [tokenizer.encode(text) for text in AWKWARD]
    assert theirs["greedy"][len(theirs["prompt"]) :] == greedy(run.model, theirs["prompt"], tokenizer.eot_id)
