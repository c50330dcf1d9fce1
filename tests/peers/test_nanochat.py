"""What a run of the preset `prime` computes is what Transformers' NanoChat class computes of its export, and back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from primegpt import api
from primegpt.config import LORA_TARGETS, GenerateConfig, LoRAConfig
from primegpt.interop.peft import write_adapter
from primegpt.model.cache import KVCache
from primegpt.model.lora import adapters, add_lora
from primegpt.tokenizers import store
from primegpt.tokenizers.char import CharTokenizer

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

LETTERS = CharTokenizer((chr(0x100 + i) for i in range(66)), {"control": ["<song>"]})  # 69 ids: 64 and padding
SHAPES = {
    "untied": {},
    "tied": {"tie_embeddings": True},
    "grouped": {"n_head": 6, "n_kv_head": 2, "n_embd": 48, "rope_theta": 1e5},
    "softcap": {"logit_softcap": 3.0, "norm_eps": 1e-5},
    "head_dim": {"n_head": 2, "head_dim": 24, "intermediate_size": 70},
    "deep": {"n_layer": 6, "n_head": 1, "n_embd": 20, "tie_embeddings": True, "logit_softcap": 15.0},
}
ELSEWHERE = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, ids = sys.argv[1], torch.tensor(json.loads(sys.argv[2]))
model = AutoModelForCausalLM.from_pretrained(folder)
AutoTokenizer.from_pretrained(folder)
with torch.inference_mode():
    whole = model(ids).logits
    first = model(ids[:, :20], use_cache=True)
    rest = model(ids[:, 20:], past_key_values=first.past_key_values).logits
    greedy = model.generate(ids[:1, :9], do_sample=False, max_new_tokens=100, min_new_tokens=100)
print(json.dumps({
    "class": type(model).__name__,
    "whole": whole.tolist(),
    "cached": torch.cat((first.logits, rest), 1).tolist(),
    "greedy": greedy[0, 9:].tolist(),
    "ours": [name for name in sys.modules if name.startswith("primegpt")],
}))
"""


def quiet(message: str) -> None:
    pass


def elsewhere(folder: Path, ids: torch.Tensor) -> dict:
    """What Transformers computes of `folder`, in a process that imports nothing of ours."""
    arguments = [sys.executable, "-c", ELSEWHERE, str(folder), json.dumps(ids.tolist())]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES)
@torch.inference_mode()
def test_prime_is_nanochat_there(sizes, random_model, save_run, tmp_path):
    model = random_model("prime", vocab_size=LETTERS.vocab_size, block_size=128, **sizes)
    folder = api.export(save_run(model, LETTERS), tmp_path / "hf", say=quiet)
    ids = torch.randint(LETTERS.vocab_size, (2, 128), generator=torch.Generator().manual_seed(2))
    theirs, ours = elsewhere(folder, ids), model(ids)
    assert (theirs["class"], theirs["ours"]) == ("NanoChatForCausalLM", [])
    assert ours.std() > 0.3
    for kind in ("whole", "cached"):
        torch.testing.assert_close(torch.tensor(theirs[kind]), ours, atol=1e-4, rtol=0)
    cache = KVCache(model.config, 2, 128)
    pieces = [model(piece, cache=cache) for piece in ids.split((20, 107, 1), dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), torch.tensor(theirs["whole"]), atol=1e-4, rtol=0)
    greedy = ids[:1, :9]
    for _ in range(100):
        logits = model(greedy, logits_for="last")[:, -1]
        logits[:, LETTERS.eot_id] = float("-inf")  # Transformers forbids it through min_new_tokens
        greedy = torch.cat((greedy, logits.argmax(-1, keepdim=True)), 1)
    assert theirs["greedy"] == greedy[0, 9:].tolist()


@pytest.mark.parametrize("cap", [None, 15.0])
@torch.inference_mode()
def test_a_nanochat_folder_of_theirs_comes_in(cap, tmp_path):
    torch.manual_seed(0)
    config = transformers.NanoChatConfig(
        vocab_size=128, hidden_size=48, intermediate_size=192, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=3, max_position_embeddings=64, final_logit_softcapping=cap,
    )  # fmt: skip
    theirs = transformers.NanoChatForCausalLM(config).eval()
    for parameter in theirs.parameters():
        parameter.normal_(0.0, 0.2)
    theirs.bfloat16().save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32)
    store.save(LETTERS, tmp_path / "theirs")
    opened = api.load(api.import_model(tmp_path / "theirs", tmp_path / "run", say=quiet), device="cpu")
    assert opened.config.model.logit_softcap == cap
    ids = torch.randint(LETTERS.vocab_size, (3, 64))
    expected = theirs(ids).logits[..., : LETTERS.vocab_size]
    torch.testing.assert_close(opened.model(ids), expected, atol=1e-4, rtol=0)


def test_a_trained_run_writes_the_same_text_there(tmp_path):
    (tmp_path / "text.txt").write_text("the river ran under a bridge of stone, and the song went on\n" * 60)
    settings = {
        "tokenizer": {"kind": "bpe", "vocab_size": 300},
        "model": {"preset": "prime", "n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 64},
        "train": {"max_steps": 30, "batch_size": 4, "device": "cpu", "threads": 1},
        "data": {"val_tokens": 200},
    }
    run = api.train(tmp_path / "text.txt", out=tmp_path / "run", settings=settings, say=quiet)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(api.export(tmp_path / "run", tmp_path / "hf", say=quiet))
    prompt = torch.tensor([run.tokenizer.encode("the river")])
    expected = theirs.generate(prompt, do_sample=False, max_new_tokens=40)[0, prompt.size(1) :].tolist()
    settings = GenerateConfig(temperature=0.0, max_new_tokens=40)
    (ours,) = api.load(tmp_path / "run", device="cpu").generator().generate(["the river"], settings)[0]
    assert ours.ids == expected
    assert len(set(expected)) > 5


@torch.inference_mode()
def test_peft_puts_our_adapter_onto_nanochat(random_model, save_run, tmp_path):
    peft = pytest.importorskip("peft")
    model = random_model("prime", vocab_size=LETTERS.vocab_size, n_kv_head=2)
    folder = api.export(save_run(model, LETTERS), tmp_path / "hf", say=quiet)
    ids = torch.randint(LETTERS.vocab_size, (2, 20))
    plain, lora, layers = model(ids), LoRAConfig(rank=4, alpha=10, targets=LORA_TARGETS), {}
    add_lora(model, lora)
    for name, layer in adapters(model):
        layer.lora_b.normal_(0.0, 0.2)
        layers[name] = (layer.lora_a, layer.lora_b)
    write_adapter(tmp_path / "adapter", model.config, lora, layers, base="base")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert (model(ids) - plain).abs().max() > 0.1
    torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=0)
