"""llama.cpp runs what we write: the same ids, the same logits, the same greedy text."""

from pathlib import Path

import numpy as np
import pytest
import torch

from primegpt import api, tokenizers

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
]
# How far the logits, of standard deviation 1, may be off in the root mean square: twice what rounding of weights, and
# for q8_0 of activations, was seen to do.
BOUNDS = {"f32": 1e-3, "f16": 3e-3, "bf16": 3e-2, "q8_0": 9e-2}


def quiet(message: str) -> None:
    pass


@pytest.fixture(scope="module")
def bpe() -> tokenizers.Tokenizer:
    return trained("bpe")


def trained(kind: str) -> tokenizers.Tokenizer:
    return tokenizers.train(kind, [CORPUS], 360, {"control": ["<song>", "</song>"]})


def opened(path: Path) -> "llama_cpp.Llama":
    keep = llama_cpp.GGML_TYPE_F32  # of keys and values, which llama.cpp otherwise rounds to f16
    return llama_cpp.Llama(
        str(path), n_ctx=96, logits_all=True, n_threads=1, type_k=keep, type_v=keep, flash_attn=False, verbose=False
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
