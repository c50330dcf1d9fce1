"""llama.cpp runs what we write: the same ids, the same logits, the same greedy text."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from primegpt import api, tokenizers
from primegpt.config import read_saved, write_toml
from primegpt.tokenizers import splits
from primegpt.tokenizers.imported import Imported
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

CORPUS = "the river ran under a bridge of stone — and the song went on until mörning, it's 12 o'clock\n" * 60
AWKWARD = [
    " ", "   leading and trailing   ", "\n", "\r\n mixed \r ends \n\n\n", "\t\ttabs\t", "it's we'll I'VE o'clock",
    "1234567890 12,345.67", "naïve café — “quotes” …", "日本語テキスト。", "Привет, мир!", "العربية עברית",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽", "e\u0301 vs é", "a\u0007c", "\u00a0\u2003\u2028\u2581 spaces", "\ufeffBOM \ufffd \uffff",
    "x" * 300, "  \n \n\t \n", "def f(x):\n    return x**2  # <not special>", "mörning river's",
]  # fmt: skip
FAMILIES = [
    ("gpt2", {}),
    ("gpt2", {"tie_embeddings": False, "n_head": 2}),
    ("qwen3", {"n_kv_head": 2, "head_dim": 16}),
    ("qwen3", {"qk_norm": False, "n_kv_head": 2}),  # that is Llama
    ("qwen2", {"n_kv_head": 2, "rope_type": "linear", "rope_factor": 4.0}),
    ("mistral", {"rope_type": "llama3", "head_dim": 32, "rope_factor": 8.0, "rope_original_context": 64}),
]
# How far the logits, of standard deviation 1, may be off in the root mean square: twice what rounding of weights, and
# for q8_0 of activations, was seen to do.
BOUNDS = {"f32": 1e-3, "f16": 3e-3, "bf16": 3e-2, "q8_0": 9e-2, "q4_0": 0.9}


def quiet(message: str) -> None:
    pass


@pytest.fixture(scope="module")
def bpe() -> tokenizers.Tokenizer:
    return trained("bpe")


def trained(kind: str) -> tokenizers.Tokenizer:
    return tokenizers.train(kind, [CORPUS], 360, {"control": ["<song>", "</song>"]})


def opened(path: Path, n_ctx: int = 96) -> "llama_cpp.Llama":
    keep = llama_cpp.GGML_TYPE_F32  # of keys and values, which llama.cpp otherwise rounds to f16
    return llama_cpp.Llama(
        str(path), n_ctx=n_ctx, logits_all=True, n_threads=1, type_k=keep, type_v=keep, flash_attn=False, verbose=False
    )


@pytest.mark.parametrize(("preset", "sizes"), FAMILIES)
@pytest.mark.parametrize("dtype", BOUNDS)
@torch.inference_mode()
def test_logits_are_ours(preset, sizes, dtype, random_model, save_run, bpe, tmp_path):
    model = random_model(preset, vocab_size=bpe.vocab_size, block_size=96, **sizes)
    path = api.export(save_run(model, bpe), tmp_path / "m.gguf", to="gguf", dtype=dtype, say=quiet)
    llama = opened(path)
    ids = torch.randint(bpe.vocab_size, (1, 64), generator=torch.Generator().manual_seed(0))
    llama.eval(ids[0].tolist())
    ours = model(ids)[0].numpy()
    assert ours.std() > 0.9
    off = llama.scores[:64] - ours
    assert np.sqrt(np.mean(off**2)) < BOUNDS[dtype]
    if dtype == "f32":  # its GELU comes from a table in f16; nothing else is rounded
        assert np.abs(off).max() < (5e-3 if preset == "gpt2" else 1e-4)


@pytest.mark.parametrize(("preset", "sizes"), FAMILIES)
@torch.inference_mode()
def test_greedy_text_is_ours(preset, sizes, random_model, save_run, bpe, tmp_path):
    model = random_model(preset, vocab_size=bpe.vocab_size, block_size=96, **sizes)
    path = api.export(save_run(model, bpe), tmp_path / "m.gguf", to="gguf", dtype="f32", say=quiet)
    llama, ids = opened(path), bpe.encode("the river")
    theirs = list(ids)
    for token in llama.generate(ids, temp=0.0, repeat_penalty=1.0):
        theirs.append(token)
        if len(theirs) == len(ids) + 50:
            break
    for _ in range(50):
        ids = [*ids, int(model(torch.tensor([ids]), logits_for="last")[0, -1].argmax())]
    assert theirs == ids


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_ids_are_ours(kind, random_model, save_run, tmp_path):
    tokenizer = trained(kind)
    run = save_run(random_model(vocab_size=tokenizer.vocab_size), tokenizer)
    llama = opened(api.export(run, tmp_path / "m.gguf", to="gguf", say=quiet))
    for text in [*AWKWARD, "text that only spells <song>"]:
        if kind == "sentencepiece":
            text = text.replace("\u2581", "")  # which its SentencePiece takes for a space
        ids = llama.tokenize(text.encode(), add_bos=False, special=False)
        assert ids == tokenizer.encode(text), text
        assert llama.detokenize(ids).decode("utf-8", "replace") == text
    assert llama.tokenize(b"<song>", add_bos=False, special=True) == [tokenizer.token_id("<song>")]
    assert llama.token_eos() == tokenizer.eot_id


# Widths of which no row needs another type, so that each type is tested by itself.
WIDE = {"n_embd": 256, "n_head": 4, "intermediate_size": 256, "block_size": 96}


def requantized(path: Path, kind: str) -> Path:
    """The file in another type, by llama.cpp's own hand."""
    out = path.with_name(f"{kind}.gguf")
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread, settings.pure = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}"), 1, True
    assert llama_cpp.llama_model_quantize(bytes(path), bytes(out), settings) == 0
    return out


# The root mean square of the difference of logits as a share of their deviation: twice what was seen. It rounds
# activations too, to 16 bits beside F16 weights and to 8 beside quantized ones.
SHARES = {"F16": 2e-3, "BF16": 0.014, "Q8_0": 0.05, "Q4_0": 0.05, "Q4_K_M": 0.07, "Q6_K": 0.07}


@pytest.mark.parametrize(("preset", "sizes"), [*FAMILIES[::3], ("qwen3", FAMILIES[2][1]), ("qwen2", {"n_kv_head": 2})])
@pytest.mark.parametrize("kind", SHARES)
@torch.no_grad()
def test_what_it_made_is_imported(kind, preset, sizes, random_model, save_run, bpe, tmp_path):
    """Our logits from its file, whose numbers are unpacked, against its own. With few bits those before are far off."""
    model = random_model(preset, vocab_size=bpe.vocab_size, **{**sizes, **WIDE})
    for weight in model.parameters():  # so that logits of this width are as large as of those above
        weight.mul_(0.35 if weight.dim() > 1 else 1.0)
    whole = api.export(save_run(model, bpe), tmp_path / "m.gguf", to="gguf", dtype="f32", say=quiet)
    path = requantized(whole, kind)
    llama, ours = opened(path), api.load(api.import_model(path, tmp_path / "back", say=quiet), device="cpu").model
    ids = torch.randint(bpe.vocab_size, (1, 64), generator=torch.Generator().manual_seed(0))
    llama.eval(ids[0].tolist())
    found, before = ours(ids)[0].numpy(), model(ids)[0].numpy()
    off, rounded = (np.sqrt(np.mean((logits - found) ** 2)) / found.std() for logits in (llama.scores[:64], before))
    assert off < SHARES[kind]
    if kind.startswith("Q4"):
        assert rounded > 5 * off


def others(name: str) -> Imported:
    """A tokenizer of others' making, with the split of that name."""
    learner = Tokenizer(models.BPE())
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|end|>"])
    learner.train_from_iterator([CORPUS], trainer)
    document = json.loads(learner.to_str())
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*splits.BY_NAME[name], level]}
    document["model"]["ignore_merges"] = name in splits.IGNORE_MERGES
    settings = {"eos_token": "<|end|>", "chat_template": "{{ messages[0].content }}"}
    files = {"tokenizer.json": document, "tokenizer_config.json": settings}
    tokenizer = Imported({file: json.dumps(content).encode() for file, content in files.items()})
    return tokenizer.with_special_tokens({"control": ["<system>", "<user>", "<assistant>", "</turn>"]})


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "smollm", "tekken", "deepseek-llm", "falcon"])
def test_ids_of_tokenizers_of_others_are_ours(name, random_model, save_run, tmp_path):
    tokenizer = others(name)
    run = save_run(random_model("llama", vocab_size=tokenizer.vocab_size), tokenizer)
    llama = opened(api.export(run, tmp_path / "m.gguf", to="gguf", say=quiet))
    for text in [*AWKWARD, CORPUS, "text that only spells <user>"]:
        assert llama.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text), text
    assert llama.token_eos() == tokenizer.eot_id
    assert llama.metadata["tokenizer.chat_template"] == "{{ messages[0].content }}"


def test_an_answer_in_a_chat_is_ours(random_model, save_run, tmp_path):
    """A run of SmolLM2's kind that was tuned on chats: laid out by the file's template, ended by its end of turn."""
    tokenizer = others("smollm")
    path = save_run(random_model("llama", vocab_size=tokenizer.vocab_size, block_size=256), tokenizer)
    config = read_saved(path / "config.toml").with_values(data={"template": "chat"})
    (path / "config.toml").write_text(write_toml(config), encoding="utf-8")
    llama = opened(api.export(path, tmp_path / "m.gguf", to="gguf", dtype="f32", say=quiet), 256)
    talk = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what ran\nunder it? "}]
    run = api.load(path, device="cpu")
    ours = run.complete(run.conversation(talk), temperature=0.0, max_new_tokens=40)[0]
    never = {tokenizer.token_id(name): -1e9 for name in ("<system>", "<user>", "<assistant>")}  # ours writes none
    asked = {"temperature": 0.0, "max_tokens": 40, "logit_bias": never, "repeat_penalty": 1.0}
    llama.create_chat_completion(talk, **asked)
    written, expected = llama._input_ids.tolist(), [*run.conversation(talk), *ours.ids]
    assert written[: len(expected)] == expected  # beyond its limit it writes on until a character is whole
    assert llama_cpp.llama_vocab_eot(llama._model.vocab) == tokenizer.token_id("</turn>")
