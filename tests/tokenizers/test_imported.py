"""Tokenizers of others: ids as of the library that their files are for, the files as they came."""

import base64
import io
import json
import random
import time
import unicodedata

import pytest

from primegpt import tokenizers
from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.preparing.prepare import prepare
from primegpt.errors import DataError, TokenizerError
from primegpt.tokenizers import splits, store, tiktoken_files, tokenizer_json
from primegpt.tokenizers.imported import Imported
from primegpt.tokenizers.sentencepiece_files import read_model
from primegpt.tokenizers.tiktoken_files import Published
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = [
    "",
    " ",
    "the river isn't  the song\n\n 12345",
    "<|im_start|>user\nhi<|im_end|><|end_of_text|>",
    "日本語 привет é 😀\r\n\t",
]


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Strings of any Unicode scalar values, and of what splitters trip over."""
    rng = random.Random(seed)
    traps = ["  ", "\n", "'s", "'LL", "12", "▁", "<s>", "</s>", "<|im_end|>", " the", "é", "e\u0301", "\0", "\ufffd"]

    def scalar() -> str:
        point = rng.randrange(0x110000 - 0x800)
        return chr(point if point < 0xD800 else point + 0x800)

    drawn = (lambda: rng.choice(traps), scalar, lambda: chr(rng.randrange(32, 127)))
    return ["".join(rng.choice(drawn)() for _ in range(rng.randrange(12))) for _ in range(count)]


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def folder(foreign_files, corpus, tmp_path):
    return write(tmp_path / "theirs", foreign_files(corpus))


def library(content) -> Tokenizer:
    theirs = Tokenizer.from_str(content.decode())
    theirs.encode_special_tokens = True
    return theirs


def test_a_folder_of_theirs(folder):
    loaded, theirs = tokenizers.load(folder), library((folder / "tokenizer.json").read_bytes())
    assert loaded.kind == "imported"
    assert loaded.vocab_size == theirs.get_vocab_size()
    assert (loaded.eot_token, loaded.bos_token, loaded.pad_token) == ("<|end_of_text|>", "<|begin_of_text|>", None)
    assert loaded.eot_id == 1
    assert loaded.special_kinds["system"] == ("<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>")
    assert loaded.adds_bos
    assert loaded.opening_id == loaded.bos_id == 0
    assert loaded.chat_template.startswith("{% for m in messages")
    for text in [*TEXTS, *random_texts(300)]:
        assert loaded.encode(text) == theirs.encode(text, add_special_tokens=False).ids
        assert loaded.decode(loaded.encode(text)) == text
        assert loaded._special_ids.isdisjoint(loaded.encode(text))


def test_what_stands_before_a_text_only_where_the_original_puts_it_there(folder, bpe):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"add_bos_token": False}))
    assert tokenizers.load(folder).opening_id is None
    assert tokenizers.load(folder).space_before("the") == ""
    assert bpe.opening_id is None


def test_what_is_saved_are_their_files_byte_for_byte(folder, tmp_path):
    loaded = tokenizers.load(folder)
    store.save(loaded, tmp_path / "saved")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (folder / name).read_bytes()
    again = tokenizers.load(tmp_path / "saved")
    assert again.fingerprint == loaded.fingerprint
    assert again.encode_batch(TEXTS) == loaded.encode_batch(TEXTS)


def test_the_file_alone(folder):
    loaded = tokenizers.load(folder / "tokenizer.json")
    assert loaded.fingerprint == tokenizers.load(folder).fingerprint


def test_tokens_that_are_added_come_last_and_stand_where_transformers_looks(folder, tmp_path):
    loaded = tokenizers.load(folder)
    grown = loaded.with_special_tokens({"control": ["<song>", "</song>"]})
    assert grown.token_id("<song>") == loaded.vocab_size
    assert grown.vocab_size == loaded.vocab_size + 2
    assert grown.special_kinds["control"] == ("<song>", "</song>")
    assert grown.encode_batch(TEXTS) == loaded.encode_batch(TEXTS)
    theirs = library(grown.files["tokenizer.json"])
    assert theirs.token_to_id("</song>") == grown.token_id("</song>")
    settings = json.loads(grown.files["tokenizer_config.json"])
    assert settings["additional_special_tokens"] == ["<song>", "</song>"]
    assert settings["chat_template"] == loaded.chat_template
    store.save(grown, tmp_path / "saved")
    assert tokenizers.load(tmp_path / "saved").fingerprint == grown.fingerprint


def test_a_name_that_it_has_already_is_not_added(folder):
    loaded = tokenizers.load(folder)
    grown = loaded.with_special_tokens({"control": ["<|im_end|>"]})
    assert grown.vocab_size == loaded.vocab_size
    assert grown.special_kinds["control"] == ("<|im_end|>",)


def test_long_texts_are_cut_where_no_id_changes(folder, corpus):
    loaded, theirs = tokenizers.load(folder), library((folder / "tokenizer.json").read_bytes())
    text = (corpus + "'s the <|im_end|> " + "x" * 3000) * 8
    assert len(loaded._sections(text)) > 2
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert loaded.encode(text) == ids
    assert loaded.encode_array(text).tolist() == ids
    assert [id for part in loaded.cut(text, 100_000) for id in loaded.encode(part)] == ids


# ---- SentencePiece


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def sentencepiece_file(request, corpus):
    import sentencepiece

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus.split("\n")),
        model_writer=trained,
        model_type=request.param,
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return trained.getvalue()


def test_a_sentencepiece_file(sentencepiece_file, tmp_path):
    import sentencepiece

    loaded = tokenizers.load(write(tmp_path, {"tokenizer.model": sentencepiece_file}))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_file)
    assert (loaded.eot_token, loaded.bos_token, loaded.unk_token) == ("</s>", "<s>", "<unk>")
    for text in [*TEXTS, *random_texts(300)]:
        ids = theirs.encode(text, out_type=int)
        assert loaded.encode(text) == ids
        assert loaded._special_ids.isdisjoint(ids)
        if "▁" not in text:
            assert loaded.decode(ids) == text
    assert store.files_of(loaded)["tokenizer.model"] == sentencepiece_file
    long = "the river song " * 20_000
    assert loaded.encode(long) == theirs.encode(long, out_type=int)
    assert [id for part in loaded.cut(long, 100_000) for id in loaded.encode(part)] == loaded.encode(long)


def test_added_tokens_beside_a_sentencepiece_file(sentencepiece_file, tmp_path):
    count = tokenizers.load(write(tmp_path / "plain", {"tokenizer.model": sentencepiece_file})).vocab_size
    added = {"tokenizer.model": sentencepiece_file, "added_tokens.json": json.dumps({"<x>": count}).encode()}
    with pytest.raises(TokenizerError, match="'<x>' is not special"):
        tokenizers.load(write(tmp_path / "ordinary", added))
    settings = {"eos_token": "<x>", "chat_template": "{{ messages }}"}
    files = {**added, "tokenizer_config.json": json.dumps(settings).encode()}
    loaded = tokenizers.load(write(tmp_path / "special", files))
    assert (loaded.vocab_size, loaded.eot_id, loaded.decode([count])) == (count + 1, count, "<x>")
    grown = loaded.with_special_tokens({"control": ["<y>"]})
    assert grown.token_id("<y>") == count + 1
    assert json.loads(grown.files["tokenizer_config.json"])["added_tokens_decoder"][str(count + 1)]["special"]


def test_a_sentencepiece_file_that_leaves_out_white_space_is_refused(sentencepiece_file, tmp_path):
    content = read_model(sentencepiece_file)._replace(remove_extra_whitespaces=True).content()
    with pytest.raises(TokenizerError, match="leaves out white space"):
        tokenizers.load(write(tmp_path, {"tokenizer.model": content}))


def metaspace(corpus, scheme, model):
    learner = Tokenizer(model)
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    learner.decoder = decoders.Metaspace(prepend_scheme=scheme)
    names = ["<unk>", "<s>", "</s>"]
    if isinstance(model, models.Unigram):
        trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=names, unk_token="<unk>", show_progress=False)
    else:
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=names, show_progress=False)
    learner.train_from_iterator([corpus], trainer)
    return learner


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
@pytest.mark.parametrize("model", [models.Unigram, models.BPE])
def test_metaspace_in_a_tokenizer_json(corpus, scheme, model):
    theirs = metaspace(corpus, scheme, model())
    loaded = Imported({"tokenizer.json": theirs.to_str().encode()})
    theirs.encode_special_tokens = True
    known = set(corpus)
    for text in [*TEXTS, " the", "  the", "▁the", *random_texts(200), corpus * 5]:
        ids = theirs.encode(text).ids
        if {1, 2}.isdisjoint(ids):  # the library takes a spelt </s> for one; we never do
            assert loaded.encode(text) == ids
        assert {1, 2}.isdisjoint(loaded.encode(text))
        if set(text) <= known and not text.startswith(" ") and "▁" not in text:
            assert loaded.decode(loaded.encode(text)) == text


def test_llama_2s_normalizer_is_the_space_before_a_text(corpus):
    theirs = metaspace(corpus, "never", models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    theirs.pre_tokenizer = None
    theirs.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    loaded = Imported({"tokenizer.json": theirs.to_str().encode()})
    assert loaded.vocabulary.prefix == " "
    for text in ["", " ", "the river", "  the", "river\n the"]:
        assert loaded.encode(text) == theirs.encode(text).ids
        assert loaded.encode_within(" " + text if text else "") == theirs.encode(text).ids


# ---- no special token out of ordinary text


def files_with(learner, **settings):
    return {"tokenizer.json": learner.to_str().encode(), "tokenizer_config.json": json.dumps(settings).encode()}


@pytest.mark.parametrize("model", [models.Unigram, models.BPE])
def test_an_end_of_text_that_is_named_unknown_too_is_not_spelt(corpus, model):
    loaded = Imported(files_with(metaspace(corpus, "never", model()), eos_token="</s>", unk_token="</s>"))
    ids = loaded.encode("the </s></s>river")
    assert loaded.eot_id not in ids
    assert loaded.decode(loaded.encode("</s>")).replace("<unk>", "") != "</s>" or loaded.eot_id not in ids


def test_what_is_normalized_to_a_special_token_stays_text(corpus):
    theirs = metaspace("</s> " * 50 + corpus, "never", models.BPE())
    theirs.normalizer = normalizers.NFKC()
    loaded = Imported(files_with(theirs, eos_token="</s>"))
    for text in ("the\uff1c/s\uff1elo", "\uff1c/s\uff1e" * 9, "the \uff1c\uff0f\uff53\uff1e river</s>"):
        ids = loaded.encode(text)
        assert loaded.eot_id not in ids
        assert loaded.decode(ids) == unicodedata.normalize("NFKC", text)


def test_a_text_that_only_the_end_of_text_could_stand_for_is_refused(corpus):
    document = json.loads(metaspace(corpus, "never", models.Unigram()).to_str())
    document["model"]["unk_id"] = 2
    loaded = Imported({"tokenizer.json": json.dumps(document).encode()})
    assert (loaded.eot_token, loaded.unk_token) == ("</s>", "</s>")
    assert loaded.decode(loaded.encode("the river")) == "the river"
    with pytest.raises(DataError, match=r"nothing but '</s>' for 'ܐ'"):
        loaded.encode("the ܐ river")


@pytest.mark.parametrize("unknown", ["<unk>", None])
def test_characters_that_another_vocabulary_lacks_are_counted(corpus, folder, unknown):
    """Where the library has no piece for the unknown, it leaves them out."""
    theirs = metaspace(corpus, "first", models.BPE(unk_token=unknown))
    loaded = Imported(files_with(theirs, eos_token="</s>"))
    assert loaded.count_unknown("the ܐ river ܐ☃") == {"ܐ": 2, "☃": 1}
    assert loaded.count_unknown("the river\n\ud800") == {}
    assert tokenizers.load(folder).count_unknown("the ܐ river") == {}


# ---- what stands beside


def test_equal_fingerprints_are_equal_ids(folder, corpus):
    """What stands beside a vocabulary can change ids without any special token more."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    settings, size = json.loads(files["tokenizer_config.json"]), Imported(files).vocab_size

    def fingerprint(**changed):
        return Imported(files | {"tokenizer_config.json": json.dumps(settings | changed).encode()}).fingerprint

    def table(**flags):
        return {"added_tokens_decoder": {str(size): {"content": "<tool>", **flags}}}

    own = next(t for t in json.loads(files["tokenizer.json"])["added_tokens"] if t["content"] == "<|im_end|>")
    assert fingerprint(added_tokens_decoder={str(own["id"]): own}) == fingerprint() == fingerprint(model_max_length=9)
    ids = fingerprint(**table()), fingerprint(**table(lstrip=True)), fingerprint(**table(single_word=True))
    assert len({fingerprint(), *ids}) == 4

    document = json.loads(files["tokenizer.json"])
    merges = "".join(f"{left} {right}\n" for left, right in document["model"]["merges"]).encode()
    pair = {"vocab.json": json.dumps(document["model"]["vocab"]).encode(), "merges.txt": merges}

    def of_class(name):
        told = {"eos_token": "<|end_of_text|>"} | ({"tokenizer_class": name} if name else {})
        return Imported({**pair, "tokenizer_config.json": json.dumps(told).encode()}).fingerprint

    assert of_class("GPT2Tokenizer") == of_class("GPT2TokenizerFast") == of_class(None) != of_class("Qwen2Tokenizer")


def test_thousands_of_tokens_beside_are_added_soon_and_more_than_that_refused(folder, sentencepiece_file):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    settings = json.loads(files["tokenizer_config.json"])
    model = {"tokenizer.model": sentencepiece_file}
    for given, told in ((files, settings), (model, {})):
        first = Imported(given).vocab_size
        for count in (28_700, 50_001):
            added = {f"<{n}>": first + n for n in range(count)}
            told["additional_special_tokens"] = list(added)
            beside = {"added_tokens.json": added, "tokenizer_config.json": told}
            whole = {**given, **{name: json.dumps(content).encode() for name, content in beside.items()}}
            if count > 50_000:
                with pytest.raises(ValueError, match=r"it adds 50,00. tokens, more than 50,000"):
                    Imported(whole)
                continue
            started = time.process_time()
            assert Imported(whole).token_id("<14999>") == first + 14_999
            assert time.process_time() - started < 5


def test_a_token_without_an_id_comes_after_those_that_have_one(sentencepiece_file, tmp_path):
    count = Imported({"tokenizer.model": sentencepiece_file}).vocab_size
    added, settings = (
        {"<x>": count, "<y>": count + 1},
        {"pad_token": "[PAD]", "additional_special_tokens": ["<x>", "<y>"]},
    )
    beside = {"added_tokens.json": added, "special_tokens_map.json": settings}
    files = {name: json.dumps(content).encode() for name, content in beside.items()}
    loaded = Imported({"tokenizer.model": sentencepiece_file, **files})
    assert [loaded.token_id(name) for name in ("<x>", "<y>", "[PAD]")] == [count, count + 1, count + 2]


def test_tokens_that_only_stand_beside_are_added_as_transformers_adds_them(folder, corpus):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    size = tokenizers.load(folder).vocab_size
    settings["added_tokens_decoder"] = {str(size): {"content": "<tool>", "special": False, "lstrip": True}}
    settings["pad_token"] = "<pad>"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded, theirs = tokenizers.load(folder), library((folder / "tokenizer.json").read_bytes())
    theirs.add_tokens([AddedToken("<tool>", lstrip=True)])
    assert (loaded.pad_id, loaded.token_id("<pad>")) == (size + 1, size + 1)
    for text in ("the  <tool> river", "<tool><tool>", "a <pad>"):
        assert loaded.encode(text) == theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"do_lower_case": True}, "do_lower_case"),
        ({"auto_map": {"AutoTokenizer": ["x", None]}}, "auto_map"),
        ({"added_tokens_decoder": {"7": {"content": "<x>"}}}, "same id"),
        ({"added_tokens_decoder": {"-7": {"content": "<x>"}}}, "'<x>' with the id -7"),
        ({"chat_template": 7}, "chat template"),
        ({"eos_token": 7}, "7 is no token"),
    ],
)
def test_what_beside_it_cannot_be_used_is_refused(folder, settings, reason):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(TokenizerError, match="cannot be used") as caught:
        tokenizers.load(folder)
    assert reason in str(caught.value)


def test_vocabulary_and_merges_of_qwen2(folder, corpus, tmp_path):
    learner = Tokenizer.from_file(str(folder / "tokenizer.json"))
    learner.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(splits.QWEN2), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learner.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    document = json.loads(learner.to_str())
    merges = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in document["model"]["merges"])
    settings = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|end_of_text|>"}
    files = {"vocab.json": document["model"]["vocab"], "tokenizer_config.json": settings}
    pair = {name: json.dumps(content).encode() for name, content in files.items()} | {"merges.txt": merges.encode()}
    loaded = tokenizers.load(write(tmp_path / "pair", pair))
    for text in ("the 12345 it'S", "e\u0301" * 3, "日本語\n\n the"):
        assert loaded.encode(text) == learner.encode(text).ids
        assert loaded.decode(loaded.encode(text)) == unicodedata.normalize("NFC", text)
    pair["tokenizer_config.json"] = json.dumps({**settings, "tokenizer_class": "RobertaTokenizer"}).encode()
    with pytest.raises(TokenizerError, match="how 'RobertaTokenizer' splits text is not known"):
        tokenizers.load(write(tmp_path / "pair", pair))


# ---- used


@pytest.mark.parametrize("kind", ["spaced", "sentencepiece", "ranks", "merges", "lines"])
def test_many_texts_at_once_are_encoded_as_each_alone(kind, folder, corpus, spaced_tokenizer, monkeypatch):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    if kind == "spaced":
        loaded = spaced_tokenizer
    elif kind == "sentencepiece":
        loaded = Imported(tokenizers.train("sentencepiece", [corpus], 400)._files())
    elif kind == "lines":
        ranks = {bytes([byte]): byte for byte in range(256)} | {b"th": 256, b"the": 257, b" ": 32}
        monkeypatch.setattr(tiktoken_files, "PUBLISHED", {258: Published(splits.CL100K, {"</s>": 258})})
        lines = "".join(f"{base64.b64encode(piece).decode()} {rank}\n" for piece, rank in ranks.items())
        loaded = Imported({"x.tiktoken": lines.encode()})
    else:
        loaded = Imported(files)
        monkeypatch.setattr(tokenizer_json, "WORTHWHILE", 0 if kind == "ranks" else 10**9)
    texts = [*TEXTS, " the", "\0<|never|>\0", *random_texts(200)]
    for given in (texts, texts[:1], [corpus, ""], [], [corpus * (100_001 // len(corpus) + 1), "the"]):
        found = loaded.encode_arrays(given)
        assert [ids.tolist() for ids in found] == [loaded.encode(text) for text in given]
        assert all(ids.dtype == loaded.id_dtype for ids in found)
    with pytest.raises(DataError, match=r"U\+D83D at character 4"):
        loaded.encode_arrays(["the", "the \ud83d"])


def test_a_corpus_in_shards(folder, corpus, tmp_path):
    (tmp_path / "a.txt").write_text(corpus, encoding="utf-8")
    config = TokenizerConfig(path=str(folder))
    prepared = prepare(DataConfig(sources=(str(tmp_path / "a.txt"),)), config)
    ids = prepared.train.slice(0, len(prepared.train)).tolist()
    assert ids[0] == prepared.tokenizer.eot_id == 1
    assert corpus.startswith(prepared.tokenizer.decode(ids[1:]))
    prepared.close()


def test_for_much_text_a_faster_way_is_made_and_nobody_waits_for_it(folder, corpus):
    loaded = tokenizers.load(folder)
    ids = loaded.encode(corpus)
    assert "faster" not in vars(loaded.vocabulary)
    loaded.expect(10**9)
    with tokenizer_json._MAKING:  # as another thread, which is at it
        assert loaded.encode(corpus) == ids
        assert "faster" not in vars(loaded.vocabulary)
    assert loaded.encode(corpus) == ids
    assert loaded.vocabulary.faster is not None


def test_spelt_special_tokens_stay_text_in_a_thousand_corpora(folder, corpus):
    spaced = metaspace(corpus, "first", models.BPE()).to_str()
    kinds = [tokenizers.load(folder), Imported({"tokenizer.json": spaced.encode()})]
    rng = random.Random(1)
    for each in kinds:
        names = [*each.special_tokens, "<0x0A>", "the", " ", "<", "|>", "s>"]
        for _ in range(1000):
            text = "".join(rng.choices(names, k=rng.randint(1, 30)))
            wrong = each._special_ids.intersection(each.encode(text)) - {each.unk_id}
            assert not wrong
            assert not each._special_ids.intersection(each.encode_within(text)) - {each.unk_id}


def test_special_tokens_are_decoded_by_name_or_left_out(folder):
    loaded = tokenizers.load(folder)
    ids = [loaded.token_id("<|im_start|>"), *loaded.encode("the"), loaded.eot_id]
    assert loaded.decode(ids) == "<|im_start|>the<|end_of_text|>"
    assert loaded.decode(ids, skip_special_tokens=True) == "the"


def test_half_a_character_is_refused(folder):
    with pytest.raises(DataError, match=r"U\+D83D"):
        tokenizers.load(folder).encode("the \ud83d")


def test_text_without_a_space_is_cut_where_no_id_changes_or_not_at_all(folder):
    loaded, theirs = tokenizers.load(folder), library((folder / "tokenizer.json").read_bytes())
    for unit, parts in (("日本語、と。\n", 5), ("。\n", 1), ("''-- ", 1)):
        text = unit * (300_000 // len(unit))
        assert len(loaded._sections(text)) >= parts
        assert loaded.encode(text) == theirs.encode(text, add_special_tokens=False).ids


def test_a_file_of_millions_of_values_is_refused_unread(folder, monkeypatch):
    monkeypatch.setattr(json, "loads", None)
    (folder / "tokenizer.json").write_bytes(b'{"added_tokens":[' + b"0," * 4_000_001)
    with pytest.raises(TokenizerError, match="3,500,000 values, as no tokenizer does"):
        tokenizers.load(folder)


# ---- where the library fails


def unigram(**changes):
    vocabulary = [["<unk>", 0.0], ["</s>", 0.0], ["a", -1.0], ["b", -2.0]]
    added = [{"id": id, "content": name, "special": True} for id, name in ((0, "<unk>"), (1, "</s>"))]
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocabulary}
    document = {"version": "1.0", **parts, "added_tokens": [{**t, **flags} for t in added], "model": model, **changes}
    return {"tokenizer.json": json.dumps(document).encode()}


def test_a_vocabulary_without_a_piece_for_the_unknown_is_refused():
    for id in (None, -1, 4, True):
        with pytest.raises(ValueError, match=r"unk_id .* is none of its pieces"):
            Imported(unigram(model={**json.loads(unigram()["tokenizer.json"])["model"], "unk_id": id}))
    model = {"type": "BPE", "unk_token": "<unk>", "vocab": {"a": 2, "</s>": 1}, "merges": []}
    added = [{"id": 0, "content": "<unk>", "special": True}, {"id": 1, "content": "</s>", "special": True}]
    with pytest.raises(ValueError, match="unk_token '<unk>' is none of its pieces"):
        Imported(unigram(model=model, added_tokens=added))


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAA=="}},
        {
            "normalizer": {
                "type": "Precompiled",
                "precompiled_charsmap": base64.b64encode(b"\0\4\0\0" + b"\xff" * 1028).decode(),
            }
        },
        {"pre_tokenizer": splits.split("(?:ab)?" * 25 + "ab" * 25 + "c")},
    ],
    ids=["a table of nothing", "a table of anything", "an expression that gives up"],
)
def test_a_failure_of_the_library_is_one_line(changes, tmp_path):
    with pytest.raises(TokenizerError) as caught:
        tokenizers.load(write(tmp_path, unigram(**changes))).encode("ab" * 26)
    assert "\n" not in str(caught.value)


def test_an_interruption_is_none_of_its_failures(folder, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    loaded = tokenizers.load(folder)
    loaded.vocabulary.backend = type("Library", (), {"encode": interrupted})()
    with pytest.raises(KeyboardInterrupt):
        loaded.encode("the")


@pytest.mark.parametrize(("pattern", "content"), [(" ", "</s>"), (" ", ""), ("a", "▁")])
def test_a_normalizer_that_writes_something_else_is_refused(pattern, content):
    step = {"type": "Replace", "pattern": {"String": pattern}, "content": content}
    with pytest.raises(ValueError, match=f"replaces .* by '{content}', which would change the text"):
        Imported(unigram(normalizer=step))
    Imported(unigram(normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "▁"}))


def test_a_text_is_not_cut_for_an_expression_that_may_look_further(corpus):
    """This one takes two words and the space between them, or one: a cut in between would be seen."""
    learner = Tokenizer(models.BPE())
    pattern = pre_tokenizers.Split(Regex(r"\w+ \w+ |\w+|\s"), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learner.pre_tokenizer, learner.decoder = pre_tokenizers.Sequence([pattern, level]), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=257, initial_alphabet=alphabet, special_tokens=["</s>"], show_progress=False
    )
    learner.train_from_iterator([corpus], trainer)
    assert Imported({"tokenizer.json": learner.to_str().encode()}).vocabulary.border is None
