"""Tokenizers on disk: what is loaded is what was saved, or it is refused in one line."""

import json
import os
import random
import shutil
from typing import get_args

import pytest

from primegpt import tokenizers
from primegpt.config import TOKENIZER_KINDS, LearntKind, TokenizerConfig
from primegpt.errors import ConfigError, MismatchError, PrimegptError, TokenizerError
from primegpt.tokenizers import store

TEXTS = ["the river is the song", "<song>日本語 😀\n\n  'll é", "a" * 100, "[chorus]<|endoftext|><EOS>", "\0\x1c ﷺ"]


@pytest.fixture
def saved(tokenizer, tmp_path):
    """A folder with a saved tokenizer, of each kind in turn."""
    store.save(tokenizer, tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def saved_json(json_tokenizer, tmp_path):
    """The same for the kinds that are saved as tokenizer.json."""
    store.save(json_tokenizer, tmp_path / "saved")
    return tmp_path / "saved"


def files_of(tokenizer):
    return sorted([store.META, *tokenizer.file_names])


def edit(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_what_is_loaded_is_what_was_saved(tokenizer, saved):
    assert sorted(os.listdir(saved)) == files_of(tokenizer)
    loaded = tokenizers.load(saved)
    assert type(loaded) is type(tokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.vocab_size == tokenizer.vocab_size
    assert loaded.special_tokens == tokenizer.special_tokens
    assert list(loaded.special_kinds.items()) == list(tokenizer.special_kinds.items())
    assert loaded.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert loaded.decode(range(loaded.vocab_size)) == tokenizer.decode(range(loaded.vocab_size))


def test_saving_twice_writes_the_same_bytes(tokenizer, saved):
    first = {path.name: path.read_bytes() for path in saved.iterdir()}
    store.save(tokenizers.load(str(saved)), str(saved))
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == first


def test_reformatted_files_are_still_the_same_tokenizer(tokenizer, saved):
    """Editors and other libraries lay JSON out otherwise; that determines nothing."""
    for path in saved.glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=4), encoding="utf-8")
    assert tokenizers.load(saved).fingerprint == tokenizer.fingerprint


def test_files_saved_again_by_hugging_face_still_load(json_tokenizer, saved_json, huggingface):
    huggingface(json_tokenizer).save(str(saved_json / "tokenizer.json"))
    assert tokenizers.load(saved_json).fingerprint == json_tokenizer.fingerprint


def test_a_run_folder_leads_to_its_tokenizer(tokenizer, tmp_path):
    store.save(tokenizer, tmp_path / "run" / "tokenizer")
    assert tokenizers.load(tmp_path / "run").fingerprint == tokenizer.fingerprint


# ---- damage


def test_another_fingerprint_is_refused_with_both_named(tokenizer, saved):
    edit(saved / "primegpt.json", lambda meta: meta.update(fingerprint="0123abcd"))
    with pytest.raises(MismatchError, match=f"saved as 0123abcd, but its files now make {tokenizer.fingerprint}"):
        tokenizers.load(saved)


def test_another_tokenizers_file_is_refused_with_both_named(tokenizer, saved, tmp_path):
    other = tokenizers.train(tokenizer.kind, ["quite another text, another text"], 300, dict(own_kinds(tokenizer)))
    store.save(other, tmp_path / "other")
    shutil.copy(tmp_path / "other" / tokenizer.file_names[0], saved)
    with pytest.raises(MismatchError, match=f"{tokenizer.fingerprint}.*{other.fingerprint}"):
        tokenizers.load(saved)


def own_kinds(tokenizer):
    return [(kind, names) for kind, names in tokenizer.special_kinds.items() if kind != "system"]


def swap_ids(document):
    vocab = document["model"]["vocab"]
    first, second = list(vocab)[-2:]
    vocab[first], vocab[second] = vocab[second], vocab[first]


TOKENIZER_TAMPERING = {
    "two ids swapped": swap_ids,
    "an id beyond the vocabulary": lambda d: d["model"]["vocab"].update({list(d["model"]["vocab"])[-1]: 10**9}),
    "a piece removed": lambda d: d["model"]["vocab"].popitem(),
    "a piece added": lambda d: d["model"]["vocab"].update({"zzzz": len(d["model"]["vocab"])}),
    "a foreign regular expression": lambda d: d["pre_tokenizer"].update(pattern={"Regex": "(a+)+$"}),
    "a normalizer": lambda d: d.update(normalizer={"type": "Lowercase"}),
    "a special id changed": lambda d: d["added_tokens"][0].update(id=7),
    "a special name changed": lambda d: d["added_tokens"][-1].update(content="<sing>"),
    "a special token removed": lambda d: d["added_tokens"].pop(),
    "dropout": lambda d: d["model"].update(dropout=0.5),
    "no model": lambda d: d.pop("model"),
    "a list for a model": lambda d: d.update(model=[]),
    "no vocabulary": lambda d: d["model"].update(vocab=None),
}
BPE_TAMPERING = {
    "two merges swapped": lambda d: d["model"]["merges"].insert(0, d["model"]["merges"].pop()),
    "a merge removed": lambda d: d["model"]["merges"].pop(),
    "a merge of three": lambda d: d["model"]["merges"].append(["a", "b", "c"]),
    "a merge of no byte": lambda d: d["model"]["merges"].append(["語", "b"]),
}
META_TAMPERING = {
    "another kind": lambda m: m.update(kind="bpe" if m["kind"] == "char" else "char"),
    "an unknown kind": lambda m: m.update(kind="word"),
    "an unhashable kind": lambda m: m.update(kind=["char"]),
    "a later format": lambda m: m.update(format=2),
    "no fingerprint": lambda m: m.pop("fingerprint"),
    "a kind renamed": lambda m: m["special_kinds"].update(genre=m["special_kinds"].pop("control")),
    "a special token renamed": lambda m: m["special_kinds"].update(control=["<song>", "</song>", "<sing>"]),
    "names in another order": lambda m: m["special_kinds"]["control"].reverse(),
    "a string for names": lambda m: m["special_kinds"].update(control="<song>"),
    "a list for kinds": lambda m: m.update(special_kinds=[]),
}


@pytest.mark.parametrize("change", TOKENIZER_TAMPERING.values(), ids=TOKENIZER_TAMPERING)
def test_a_tampered_tokenizer_is_refused(saved_json, change):
    edit(saved_json / "tokenizer.json", change)
    refused(saved_json)


@pytest.mark.parametrize("change", BPE_TAMPERING.values(), ids=BPE_TAMPERING)
def test_tampered_merges_are_refused(bpe, tmp_path, change):
    store.save(bpe, tmp_path)
    edit(tmp_path / "tokenizer.json", change)
    refused(tmp_path)


@pytest.mark.parametrize("change", META_TAMPERING.values(), ids=META_TAMPERING)
def test_a_tampered_record_is_refused(saved, change):
    edit(saved / "primegpt.json", change)
    refused(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"3", b'"x"', b"\xff\xfe", b"[" * 100_000, b"{}"])
def test_a_file_that_is_something_else_is_refused(tokenizer, saved, content):
    for name in files_of(tokenizer):
        store.save(tokenizer, saved)
        (saved / name).write_bytes(content)
        refused(saved)


def refused(folder):
    with pytest.raises((MismatchError, TokenizerError)) as caught:
        tokenizers.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_any_one_changed_byte_is_refused_or_harmless(tokenizer, saved):
    """Harmless: layout, or a part of tokenizer.json that has no say in encoding (its decoder, its version)."""
    rng, expected = random.Random(0), tokenizer.encode_batch(TEXTS)
    for name in files_of(tokenizer):
        whole = (saved / name).read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
            (saved / name).write_bytes(damaged)
            try:
                loaded = tokenizers.load(saved)
            except (MismatchError, TokenizerError):
                continue
            assert loaded.fingerprint == tokenizer.fingerprint
            assert loaded.encode_batch(TEXTS) == expected
        (saved / name).write_bytes(whole)


def test_a_missing_file_is_named(tokenizer, saved):
    for name in files_of(tokenizer):
        store.save(tokenizer, saved)
        (saved / name).unlink()
        complaint = "no tokenizer at .*: {name} is missing"
        if name == store.META:
            continue  # what is left may be anybody's, and is read as such (see test_foreign.py)
        with pytest.raises(TokenizerError, match=complaint.format(name=name)):
            tokenizers.load(saved)
        (saved / name).mkdir()  # a folder of that name is no better
        with pytest.raises(TokenizerError, match="is missing"):
            tokenizers.load(saved)
        (saved / name).rmdir()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(TokenizerError, match="nowhere"):
        tokenizers.load(tmp_path / "nowhere")


def test_oversized_files_are_refused_before_they_are_read(tokenizer, saved, monkeypatch):
    monkeypatch.setattr(store, "MAX_BYTES", 2**20)
    name = tokenizer.file_names[0]
    with open(saved / name, "ab") as file:
        file.truncate(2**20 + 1)
    with pytest.raises(TokenizerError, match=f"{name} is larger than 1 MB"):
        tokenizers.load(saved)


def test_oversized_vocabularies_are_refused(saved, monkeypatch):
    for module in ("sentencepiece", "json_form"):
        monkeypatch.setattr(f"primegpt.tokenizers.{module}.MAX_VOCAB", 40)
    with pytest.raises(TokenizerError, match="the vocabulary is larger than 40"):
        tokenizers.load(saved)


@pytest.mark.parametrize("name", ["id_rsa", "../private.tiktoken", ".env"])
def test_a_record_names_files_of_a_tokenizer_alone(imported, tmp_path, name):
    """What a folder holds goes out again with a run, an export, a push."""
    folder = tmp_path / "theirs"
    store.save(imported, folder)
    (folder / name).write_text("secret")
    edit(folder / "primegpt.json", lambda meta: meta.update(files=[*imported._files(), name]))
    with pytest.raises(TokenizerError, match=r"primegpt.json names .*, which is no file of such a tokenizer"):
        tokenizers.load(folder)


def test_a_record_of_ours_names_our_files_alone(json_tokenizer, saved_json):
    (saved_json / "added_tokens.json").write_text("{}")
    edit(saved_json / "primegpt.json", lambda meta: meta.update(files=["tokenizer.json", "added_tokens.json"]))
    with pytest.raises(TokenizerError, match=r"names 'added_tokens\.json'"):
        tokenizers.load(saved_json)


@pytest.mark.parametrize("saved_by_us", [True, False])
def test_a_link_that_leaves_the_folder_is_refused(imported, tmp_path, saved_by_us):
    folder, private = tmp_path / "theirs", tmp_path / "private"
    store.save(imported, folder)
    private.write_text("{{ 'secret' }}")
    (folder / "chat_template.jinja").symlink_to(private)
    if saved_by_us:
        files = [*imported._files(), "chat_template.jinja"]
        edit(folder / "primegpt.json", lambda meta: meta.update(files=files))
    else:
        (folder / "primegpt.json").unlink()
    for path in (folder, *([] if saved_by_us else [folder / "tokenizer.json"])):
        with pytest.raises(TokenizerError, match=f"chat_template.jinja leads outside its folder, to {private}"):
            tokenizers.load(path)


def test_links_into_the_hubs_cache_and_to_a_file_that_was_named_are_followed(imported, tmp_path):
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "1", tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, (name, content) in enumerate(imported._files().items()):
        (blobs / str(number)).write_bytes(content)
        (snapshot / name).symlink_to(blobs / str(number))
    assert tokenizers.load(snapshot).encode_batch(TEXTS) == imported.encode_batch(TEXTS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tokenizer.json").symlink_to(snapshot / "tokenizer.json")
    assert tokenizers.load(tmp_path / "mine" / "tokenizer.json").encode_batch(TEXTS) == imported.encode_batch(TEXTS)


# ---- writing


def test_a_save_that_fails_midway_leaves_nothing_that_is_misread(tokenizer, saved, monkeypatch):
    """At every rename in turn: afterwards the folder is the old tokenizer, or is refused; no rubbish stays."""
    other = tokenizers.train(tokenizer.kind, ["quite another text"], 300)
    rename, loadable = os.replace, []
    for failing in (1, 2):
        store.save(tokenizer, saved)
        calls = []

        def fail(source, target, calls=calls, failing=failing):
            calls.append(target)
            if len(calls) == failing:
                raise OSError(28, "No space left on device")
            rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(store.os, "replace", fail)
            with pytest.raises(PrimegptError, match=r"cannot save the tokenizer to .*: No space left"):
                store.save(other, saved)
        assert sorted(os.listdir(saved)) == files_of(tokenizer)
        try:
            loadable.append(tokenizers.load(saved).fingerprint)
        except (MismatchError, TokenizerError):
            loadable.append(None)
    assert loadable == [tokenizer.fingerprint, None]


def test_a_file_in_the_way_is_reported(tokenizer, tmp_path):
    (tmp_path / "taken").write_text("x", encoding="utf-8")
    with pytest.raises(PrimegptError, match="cannot save the tokenizer to"):
        store.save(tokenizer, tmp_path / "taken")


# ---- the table of kinds


@pytest.mark.parametrize("kind", store.KINDS)
def test_every_kind_in_the_table_trains_saves_and_loads(kind, tmp_path, request):
    if not TOKENIZER_KINDS[kind].learnt:  # its files are asked for
        tokenizer = request.getfixturevalue(kind)
    else:
        tokenizer = tokenizers.train(kind, iter(["some text, ", "some more text"]), 300)
    assert tokenizer.kind == kind
    store.save(tokenizer, tmp_path)
    assert tokenizers.load(tmp_path).fingerprint == tokenizer.fingerprint


def test_an_unknown_kind_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"tokenizer.kind = 'chr' is not known; did you mean 'char'\?"):
        tokenizers.train("chr", ["x"])


def test_every_kind_can_be_asked_for_and_its_facts_are_true():
    """A kind stands in the configuration, in the table of what is known of it, and in that of the classes."""
    assert set(get_args(TokenizerConfig.model_fields["kind"].annotation)) == set(TOKENIZER_KINDS) == set(store.KINDS)
    for kind in set(get_args(LearntKind)):
        assert TOKENIZER_KINDS[kind].learnt
        learnt = store.train(kind, ["the river is the song, and the song is the river"] * 20, 300)
        assert learnt.kind == kind
        pieces = [learnt.decode([id]) for id in learnt.encode("the river")]
        assert (TOKENIZER_KINDS[kind].unit == "character") == (pieces == list("the river"))
    assert not TOKENIZER_KINDS["gpt2"].learnt
    with pytest.raises(ConfigError, match=r"is not learnt; name its files with --tokenizer.path"):
        store.train("imported", ["the river"])
