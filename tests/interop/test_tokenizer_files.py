"""Tokenizers of Transformers folders: read where they are byte-level BPE as GPT-2 has it, refused where not."""

import json
import random
import shutil
from pathlib import Path

import pytest

from primegpt import tokenizers
from primegpt.errors import PrimegptError
from primegpt.interop.tokenizer_files import read_tokenizer, sentencepiece_document, tokenizer_files
from primegpt.tokenizers.bpe import to_letters
from tokenizers import Tokenizer

TEXT = "the river ran under a bridge of stone — and the song went on until mörning 日本語 123 it's\n" * 50
CONTROLS = {"control": ["<song>", "</song>"], "structure": ["[chorus]"]}


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train("bpe", [TEXT], 300, CONTROLS)


@pytest.fixture
def folder(bpe, tmp_path) -> Path:
    for name, content in tokenizer_files(bpe, 64).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_what_we_wrote_comes_back_as_it_was(folder, bpe):
    assert read_tokenizer(folder).fingerprint == bpe.fingerprint
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["additional_special_tokens"] == ["<song>", "</song>", "[chorus]"]
    assert settings["eos_token"] == "<|endoftext|>"


def test_without_our_own_file_ids_and_names_are_the_same(folder, bpe):
    (folder / "primegpt.json").unlink()
    found = read_tokenizer(folder)
    assert found.encode(TEXT) == bpe.encode(TEXT)
    assert found.special_tokens == bpe.special_tokens


def test_gpt2s_two_files_in_either_naming(folder, bpe):
    vocabulary = {to_letters(bpe.decode_bytes([i])): i for i in range(256 + len(bpe.merges))} | bpe.special_tokens
    merges = "#version: 0.2\n" + "".join(f"{to_letters(a)} {to_letters(b)}\n" for a, b in bpe.merges)
    shutil.rmtree(folder)
    for names in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        folder.mkdir()
        (folder / names[0]).write_text(json.dumps(vocabulary), encoding="utf-8")
        (folder / names[1]).write_text(merges, encoding="utf-8")
        assert read_tokenizer(folder).encode(TEXT) == bpe.encode(TEXT)
        shutil.rmtree(folder)


def test_gpt2_itself(shared_data):
    gpt2 = read_tokenizer(shared_data / "gpt2")
    assert gpt2.vocab_size == 50257
    assert gpt2.encode("Hello, I'm a language model,") == [15496, 11, 314, 1101, 257, 3303, 2746, 11]
    assert gpt2.special_tokens == {"<|endoftext|>": 50256}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d["model"].update(type="WordPiece"), "WordPiece"),
        (lambda d: d["model"].update(merges=[["a", 7]]), "cannot be used"),
        (lambda d: d.update(normalizer={"type": "Lowercase"}), "normalizer"),
        (lambda d: d.update(pre_tokenizer={"type": "Whitespace"}), "Whitespace"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason_and_a_way_out(folder, change, named):
    """tests/tokenizers has many more; here it is that they reach whoever imports a folder."""
    (folder / "primegpt.json").unlink()
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(PrimegptError) as caught:
        read_tokenizer(folder)
    assert named in str(caught.value)
    assert "--tokenizer" in str(caught.value)


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "tokenizer.json"
    (folder / "tokenizer.json").rename(elsewhere)
    (folder / "tokenizer.json").symlink_to(elsewhere)
    with pytest.raises(PrimegptError, match="outside"):
        read_tokenizer(folder)


WORDS = [
    "river",
    "aa",
    "a",
    "aaa",
    "haha",
    "日本",
    "語",
    "naïve",
    "song",
    "<song>",
    "▁",
    "▁▁x",
    "\0",
    "\t",
    "12",
    "😀",
    "é",
]


def test_sentencepiece_has_the_same_ids_in_tokenizer_json():
    """500 texts of words that overlap themselves, signs that are no piece, and spaces in every place."""
    rng = random.Random(0)
    ends = [" ", "  ", "\n", "", ", ", " \n "]

    def text(words: int) -> str:
        return "".join(rng.choice([*WORDS, "h" * rng.randint(1, 12)]) + rng.choice(ends) for _ in range(words))

    ours = tokenizers.train("sentencepiece", [text(5000)], 420, CONTROLS)
    theirs = Tokenizer.from_str(json.dumps(sentencepiece_document(ours)))
    theirs.encode_special_tokens = True
    for _ in range(500):
        sample = text(rng.randint(0, 12))
        ids = theirs.encode(sample, add_special_tokens=False).ids
        assert ids == ours.encode(sample), sample
        assert theirs.decode(ids, skip_special_tokens=False) == sample


def test_sentencepiece_comes_back_as_it_was(tmp_path):
    ours = tokenizers.train("sentencepiece", [TEXT], 340, CONTROLS)
    for name, content in tokenizer_files(ours, 64).items():
        (tmp_path / name).write_bytes(content)
    assert read_tokenizer(tmp_path).fingerprint == ours.fingerprint


def test_our_own_file_does_not_vouch_for_other_content(folder):
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(PrimegptError, match="damaged"):
        read_tokenizer(folder)


def test_anothers_files_go_out_as_they_came(folder):
    """A split that is not GPT-2's, and a chat template: what is written is what was read, and comes back."""
    (folder / "primegpt.json").unlink()
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    document["pre_tokenizer"]["use_regex"] = False
    (folder / "tokenizer.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    found = read_tokenizer(folder)
    assert (found.kind, found.chat_template) == ("imported", "{{ messages }}")
    written = tokenizer_files(found, 64)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert written[name] == (folder / name).read_bytes()
    (folder / "primegpt.json").write_bytes(written["primegpt.json"])
    assert read_tokenizer(folder).fingerprint == found.fingerprint
