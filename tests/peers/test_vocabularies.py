"""Real vocabularies, with the strings and ids that llama.cpp tests itself with; Transformers on what we write of them.

They come with llama-cpp-python's source (conftest.py).
"""

import random
from pathlib import Path

import pytest

from primegpt import tokenizers
from primegpt.errors import TokenizerError
from primegpt.tokenizers import store

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

SEPARATOR = "\n__ggml_vocab_test__\n"
REFUSED = {
    "aquila": "does not say how text is split",
    "gpt-neox": "does not say how text is split",
    "bert-bge": "'bert'",
    "nomic-bert-moe": "'t5'",
}
TESTED = (
    *("command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2", "llama-bpe", "llama-spm", "mpt"),
    *("phi-3", "qwen2", "qwen35", "refact", "starcoder"),
)
LOSSY = {"llama-spm", "phi-3", "gemma-4"}  # where a ▁ of the text's own is a space


@pytest.fixture(scope="session")
def load(vocabularies):
    held = {}  # one at a time: they are large, and tests go through them in turn

    def loaded(name):
        if name not in held:
            held.clear()
            held[name] = tokenizers.load(vocabularies / f"ggml-vocab-{name}.gguf")
        return held[name]

    return loaded


def strings(vocabularies, name):
    path = vocabularies / f"ggml-vocab-{name}.gguf"
    with open(f"{path}.inp", encoding="utf-8", newline="") as file:
        return file.read().split(SEPARATOR)


def scalars(rng, count):
    drawn = (rng.randrange(0x110000 - 0x800) for _ in range(count))
    return "".join(chr(point if point < 0xD800 else point + 0x800) for point in drawn)


@pytest.mark.parametrize("name", TESTED)
def test_a_vocabulary(name, vocabularies, load, tmp_path):
    """Its strings give its ids, here and in Transformers; text comes back; spelt special tokens stay text."""
    ours, given = load(name), strings(vocabularies, name)
    lines = Path(f"{vocabularies}/ggml-vocab-{name}.gguf.out").read_text(encoding="utf-8").split("\n")
    assert len(given) >= 46
    assert len(lines) >= len(given)
    for text, line in zip(given, lines, strict=False):
        assert ours.encode(text) == [int(id) for id in line.split()], text
    store.save(ours, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    settings = {"add_special_tokens": False, "split_special_tokens": True}
    rng = random.Random(0)
    drawn = [scalars(rng, rng.randint(1, 6)) + rng.choice(["", " the", "\n", "'s", "  12"]) for _ in range(500)]
    for text in [*given, *drawn]:
        assert ours.encode(text) == theirs.encode(text, **settings), text
    names = [*list(ours.special_tokens)[:50], "</s>", "<|im_end|>", " ", "a"]
    allowed = {ours.unk_id}
    for _ in range(1000):
        text = "".join(rng.choices(names, k=rng.randint(1, 20)))
        assert ours._special_ids.isdisjoint(set(ours.encode(text)) - allowed)


@pytest.mark.parametrize("name", TESTED)
def test_ten_thousand_random_strings_come_back(name, load):
    ours, rng = load(name), random.Random(1)
    known = {piece for piece in ours._pieces if len(piece) == 1}  # some lack bytes of planes without characters
    for _ in range(10_000):
        text = scalars(rng, rng.randint(0, 8))
        if all(bytes([byte]) in known for byte in text.encode()) and (name not in LOSSY or "▁" not in text):
            assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_what_cannot_be_used_is_refused_by_name(name, reason, vocabularies):
    with pytest.raises(TokenizerError, match=reason):
        tokenizers.load(vocabularies / f"ggml-vocab-{name}.gguf")


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "starcoder"])
def test_tiktoken_gives_the_ids_of_the_library(name, vocabularies, load):
    vocabulary = load(name).vocabulary
    assert vocabulary.faster is not None
    rng = random.Random(2)
    for text in [*strings(vocabularies, name), *(scalars(rng, 20) for _ in range(1000))]:
        found = vocabulary.faster.encode(text)
        assert found is None or found.tolist() == vocabulary.backend.encode(text, add_special_tokens=False).ids
    given = strings(vocabularies, name) * 3
    expected = [vocabulary.backend.encode(text, add_special_tokens=False).ids for text in given]
    assert [ids.tolist() for ids in vocabulary.faster.encode_all(given)] == expected


def test_all_of_them_are_looked_at(vocabularies):
    found = {path.name.removeprefix("ggml-vocab-").removesuffix(".gguf") for path in vocabularies.glob("*.gguf")}
    assert found == {*TESTED, *REFUSED, "baichuan"}  # which has no strings
