"""Tokenizers in the files of others: read when they mean what ours mean, refused with the reason otherwise."""

import json
import random
import shutil

import pytest

from primegpt import tokenizers
from primegpt.errors import ConfigError, TokenizerError
from primegpt.tokenizers import store
from primegpt.tokenizers.bpe import ByteLevelBPE, to_letters
from primegpt.tokenizers.gpt2 import GPT2

MERGES = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the"), (b"\xe6", b"\x97")]
TEXT = "the theatre\n日 <|endoftext|> [PAD]"


@pytest.fixture
def ours():
    return ByteLevelBPE(MERGES)


@pytest.fixture
def folder(ours, tmp_path):
    """A tokenizer.json with no record of ours beside it."""
    store.save(ours, tmp_path)
    (tmp_path / "primegpt.json").unlink()
    return tmp_path


def edit(folder, change):
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    change(document)
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")


def write_pair(folder, merges_name, vocab_name, tokenizer, ids=None, header="#version: 0.2\n", end="\n"):
    lines = [f"{to_letters(left)} {to_letters(right)}" for left, right in tokenizer.merges]
    (folder / merges_name).write_bytes((header + "\n".join(lines) + end).encode())
    vocabulary = tokenizer.letter_ids | tokenizer.special_tokens if ids is None else ids
    (folder / vocab_name).write_text(json.dumps(vocabulary), encoding="utf-8")


@pytest.mark.parametrize("names", [("vocab.bpe", "encoder.json"), ("merges.txt", "vocab.json")])
@pytest.mark.parametrize(("header", "end"), [("#version: 0.2\n", "\n"), ("", "")])
def test_merges_and_vocabulary(ours, tmp_path, names, header, end):
    write_pair(tmp_path, *names, ours, header=header, end=end)
    assert tokenizers.load(tmp_path).fingerprint == ours.fingerprint
    assert tokenizers.load(tmp_path, {"control": ["<song>"]}).token_id("<song>") == ours.vocab_size


def test_a_tokenizer_json(ours, folder):
    assert tokenizers.load(folder).fingerprint == ours.fingerprint


def split_spelt_out(document):
    split = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    step = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [step, last]}


VARIANTS = {
    "merges as strings": lambda d: d["model"].update(merges=[" ".join(m) for m in d["model"]["merges"]]),
    "an old file without use_regex": lambda d: d["pre_tokenizer"].pop("use_regex"),
    "the split spelt out": split_spelt_out,
    "another decoder and post-processor": lambda d: d.update(decoder=None, post_processor={"type": "ByteLevel"}),
    "empty strings for nothing": lambda d: d["model"].update(continuing_subword_prefix="", end_of_word_suffix=""),
}


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
def test_other_spellings_of_the_same_tokenizer(ours, folder, change):
    edit(folder, change)
    assert tokenizers.load(folder).fingerprint == ours.fingerprint


def test_tokens_that_were_added_stay_special(ours, folder):
    edit(folder, lambda d: d["added_tokens"].append({"id": ours.vocab_size, "content": "[PAD]", "special": True}))
    tokenizer = tokenizers.load(folder, {"control": ["<song>"]})
    assert tokenizer.special_kinds == {"system": ("<|endoftext|>",), "added": ("[PAD]",), "control": ("<song>",)}
    assert tokenizer.token_id("[PAD]") == ours.vocab_size
    assert tokenizer.encode(TEXT) == ours.encode(TEXT)


def test_ids_are_those_of_the_tokenizers_library(folder, bpe, tmp_path):
    from tokenizers import Tokenizer

    store.save(bpe, tmp_path / "other")
    (tmp_path / "other" / "primegpt.json").unlink()
    for place in (folder, tmp_path / "other"):
        theirs = Tokenizer.from_file(str(place / "tokenizer.json"))
        theirs.encode_special_tokens = True
        assert tokenizers.load(place).encode(TEXT) == theirs.encode(TEXT).ids


def other_split(document):
    split_spelt_out(document)
    document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}{1,3}| ?\p{L}+|."


def swap(document):
    vocabulary = document["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
THEIRS = {
    "another split": other_split,
    "no split": lambda d: d["pre_tokenizer"].update(use_regex=False),
    "a space put first": lambda d: d["pre_tokenizer"].update(add_prefix_space=True),
    "ids in another order": swap,
    "whole pieces without merging": lambda d: d["model"].update(ignore_merges=True),
    "another end of text": lambda d: d["added_tokens"][0].update(content="</s>"),
    "a normalizer": lambda d: d.update(normalizer={"type": "NFC"}),
    "an added token that is not special": lambda d: d["added_tokens"].append(
        {"id": 261, "content": "the river", "special": False, **FLAGS}
    ),
    "an added token that is an ordinary piece": lambda d: d["added_tokens"].append(
        {"id": 258, "content": "Ġthe", "special": False, **FLAGS, "lstrip": True}
    ),
}


@pytest.mark.parametrize("change", THEIRS.values(), ids=THEIRS)
def test_what_encodes_otherwise_is_kept_as_it_is(folder, change):
    """Ids are those of the library that the file is for, and the file is what is saved."""
    from tokenizers import Tokenizer

    edit(folder, change)
    loaded, theirs = tokenizers.load(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    assert loaded.kind == "imported"
    assert store.files_of(loaded)["tokenizer.json"] == (folder / "tokenizer.json").read_bytes()
    for text in (TEXT, " the the river Ġthe<|endoftext|>", "thethe\n\n theatre 12345", "e\u0301", ""):
        assert loaded.encode(text) == theirs.encode(text).ids


REFUSED = {
    "a normalizer that changes words": (lambda d: d.update(normalizer={"type": "Lowercase"}), "normalizer 'Lowercase'"),
    "another model": (lambda d: d["model"].update(type="WordPiece"), "'WordPiece'"),
    "dropout": (lambda d: d["model"].update(dropout=0.1), "dropout = 0.1"),
    "no end of text": (lambda d: d.update(added_tokens=[]), "which token ends a text"),
    "a merge of a letter that is no byte": (lambda d: d["model"]["merges"].append(["語", "a"]), "語"),
    "a merge of nothing": (lambda d: d["model"]["merges"].append(["", "a"]), "joins nothing"),
    "a merge of three": (lambda d: d["model"]["merges"].append(["a", "b", "c"]), "is not a merge of two pieces"),
    "no model": (lambda d: d.pop("model"), "does not hold a tokenizer"),
    "another splitter": (lambda d: d.update(pre_tokenizer={"type": "BertPreTokenizer"}), "'BertPreTokenizer'"),
    "another decoder": (lambda d: d.update(decoder={"type": "WordPiece"}), "decoder 'WordPiece'"),
    "a post-processor of another kind": (lambda d: d.update(post_processor=7), ""),
    "added tokens of another kind": (lambda d: d.update(added_tokens=[7]), ""),
    "two tokens of one id": (
        lambda d: d["added_tokens"].append({"id": 3, "content": "[PAD]", "special": True, **FLAGS}),
        "same id",
    ),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_would_encode_otherwise_is_refused_with_the_reason(folder, change, reason):
    edit(folder, change)
    refused(folder, reason)


def refused(folder, reason):
    with pytest.raises(TokenizerError, match="cannot be used") as caught:
        tokenizers.load(folder)
    assert str(folder) in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


ADDITIONS = {
    "a token": ("added_tokens.json", {"river": 261}, "adds the token 'river'"),
    "a token under another id": ("added_tokens.json", {"<|endoftext|>": 7}, "the id 7, where it has 260"),
    "an absurd id": ("added_tokens.json", {"<|endoftext|>": 10**400}, "an integer of about 400 digits"),
    "a role": ("special_tokens_map.json", {"pad_token": "[PAD]"}, "adds the token '[PAD]'"),
    "a role in full": ("special_tokens_map.json", {"pad_token": {"content": "[PAD]"}}, "adds the token '[PAD]'"),
    "a list": ("tokenizer_config.json", {"additional_special_tokens": ["<a>"]}, "adds the token '<a>'"),
    "names": ("tokenizer_config.json", {"extra_special_tokens": {"image": "<a>"}}, "adds the token '<a>'"),
    "a table": (
        "tokenizer_config.json",
        {"added_tokens_decoder": {"261": {"content": "river", "special": False}}},
        "'river' is not special",
    ),
    "a space before": ("tokenizer_config.json", {"add_prefix_space": True}, "add_prefix_space = True"),
    "a beginning": ("tokenizer_config.json", {"add_bos_token": True}, "add_bos_token = True"),
    "another kind": ("added_tokens.json", ["river"], "JSON object"),
    "no token": ("tokenizer_config.json", {"pad_token": 7}, "7 is no token"),
    "no table": ("tokenizer_config.json", {"added_tokens_decoder": [1]}, ""),
    "no JSON": ("special_tokens_map.json", "[" * 100_000, ""),
}


@pytest.mark.parametrize(("name", "content", "reason"), ADDITIONS.values(), ids=ADDITIONS)
def test_what_files_beside_ours_add_is_refused_by_name(ours, folder, name, content, reason):
    """Transformers reads them too: the ids would differ from its, and nobody was told."""
    store.save(ours, folder)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(TokenizerError, match="cannot be used") as caught:
        tokenizers.load(folder)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_beside_it_that_add_nothing_are_of_no_account(ours, folder):
    end, id = "<|endoftext|>", ours.token_id("<|endoftext|>")
    for name, content in {
        "added_tokens.json": {end: id},
        "special_tokens_map.json": {"eos_token": {"content": end}, "pad_token": None},
        "tokenizer_config.json": {
            "added_tokens_decoder": {str(id): {"content": end, "special": True}},
            "add_prefix_space": False,
            "bos_token": end,
            "model_max_length": 10**400,
        },
    }.items():
        (folder / name).write_text(json.dumps(content))
    assert tokenizers.load(folder).fingerprint == ours.fingerprint


SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
DRAWN = [
    *(change for change in VARIANTS.values()),
    *(change for change, _ in REFUSED.values()),
    lambda d: d["added_tokens"].append({"id": 260 + len(d["added_tokens"]), "content": "[PAD]", **SPECIAL}),
    lambda d: d["added_tokens"].append(
        {"id": 260 + len(d["added_tokens"]), "content": "the", **SPECIAL, "special": False}
    ),
]


def test_what_is_accepted_has_the_ids_of_the_tokenizers_library(ours, folder):
    """Hugging Face's own reading of the same file is the oracle, for changes drawn in pairs."""
    from tokenizers import Tokenizer

    whole, rng, accepted = (folder / "tokenizer.json").read_bytes(), random.Random(0), 0
    for _ in range(200):
        (folder / "tokenizer.json").write_bytes(whole)
        try:
            for change in rng.sample(DRAWN, rng.choice([1, 1, 2])):
                edit(folder, change)
            loaded = tokenizers.load(folder)
        except (TokenizerError, KeyError, IndexError, AttributeError):  # the last ones: a change that finds no place
            continue
        try:
            theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception:  # which wants every field of what none of its ids depends on
            continue
        theirs.encode_special_tokens = True
        accepted += 1
        for text in (TEXT, " the [PAD]the", "thethe\n\n theatre", ""):
            assert loaded.encode(text) == theirs.encode(text).ids
    assert accepted > 20


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"{}"])
def test_a_file_that_is_something_else_is_refused(folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    refused(folder, "")


@pytest.mark.parametrize(("names", "gone"), [(("vocab.bpe", "encoder.json"), 0), (("merges.txt", "vocab.json"), 1)])
def test_half_a_pair_names_the_other_half(ours, tmp_path, names, gone):
    write_pair(tmp_path, *names, ours)
    (tmp_path / names[gone]).unlink()
    refused(tmp_path, f"{names[gone]} is missing")


def test_merges_and_vocabulary_that_disagree_are_refused(ours, tmp_path):
    vocabulary = ours.letter_ids | ours.special_tokens
    for wrong in ({**vocabulary, "the": 5}, {}, dict(list(vocabulary.items())[:-1])):
        write_pair(tmp_path, "merges.txt", "vocab.json", ours, wrong)
        refused(tmp_path, "")
    write_pair(tmp_path, "merges.txt", "vocab.json", ours, header="the quick brown\n")
    refused(tmp_path, "'the quick brown' is not a merge")


def test_a_mistake_in_ones_own_special_tokens_is_not_the_folders(folder):
    with pytest.raises(ConfigError, match="is there twice"):
        tokenizers.load(folder, {"control": ["<x>", "<x>"]})


def test_gpt2s_files_in_all_forms_make_the_same_tokenizer(gpt2, shared_data, tmp_path):
    files, plain = shared_data / "gpt2", GPT2(gpt2.merges)
    shutil.copy(files / "vocab.bpe", tmp_path / "merges.txt")
    shutil.copy(files / "encoder.json", tmp_path / "vocab.json")
    assert tokenizers.load(tmp_path).fingerprint == plain.fingerprint
    store.save(plain, tmp_path / "json")
    (tmp_path / "json" / "primegpt.json").unlink()
    edit(tmp_path / "json", VARIANTS["merges as strings"])
    loaded = tokenizers.load(tmp_path / "json")
    assert isinstance(loaded, GPT2)
    assert loaded.fingerprint == plain.fingerprint


def test_any_one_changed_byte_is_refused_or_shows(ours, folder):
    """Without a fingerprint a changed merge is another tokenizer; but it is one, and never a crash."""
    whole, rng = (folder / "tokenizer.json").read_bytes(), random.Random(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        (folder / "tokenizer.json").write_bytes(damaged)
        try:
            loaded = tokenizers.load(folder)
        except TokenizerError:
            continue
        assert loaded.decode(loaded.encode(TEXT)) == TEXT or loaded.kind == "imported"
