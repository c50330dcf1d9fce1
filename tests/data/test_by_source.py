"""Sources that are read each in its own way: other fields, and plain text beside records."""

import json
import tomllib
from pathlib import Path

import pytest

from primegpt import api
from primegpt.cli.main import run
from primegpt.config import DataConfig, SourceConfig, TokenizerConfig, resolve
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.prepare import prepare
from primegpt.data.preparing.shards import SUPERVISED, Shards
from primegpt.errors import ConfigError, DataError

CHAR = TokenizerConfig(kind="char")
SMALL = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--model.block_size", "32"]
SMALL += ["--train.max_steps", "3", "--train.batch_size", "2", "--train.threads", "1", "--tokenizer.kind", "char"]
PROSE = "".join(f"once upon a time {n} times over the hills\n" for n in range(200))


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with reviews, lyrics and answers under fields of different names, and a text."""
    monkeypatch.chdir(tmp_path)
    files = {
        "reviews.jsonl": [{"text": f"review {n}"} for n in range(30)],
        "lyrics.jsonl": [{"words": f"lyric {n}", "text": "not this"} for n in range(20)],
        "answers.jsonl": [{"prompt": f"q{n}", "response": f"answer {n}"} for n in range(40)],
        "others.jsonl": [{"ask": f"Q{n}", "say": f"ANSWER {n}"} for n in range(40)],
    }
    for name, records in files.items():
        Path(name).write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    Path("prose.txt").write_text(PROSE, encoding="utf-8")
    return tmp_path


def rows(corpus: Corpus, shards: Shards) -> list[tuple[str, str]]:
    """Each row: what stands before the first token that is asked for, and what is asked for."""
    found = []
    for number in range(shards.n_documents):
        start, stop = shards.document(number)
        ids, roles = shards.slice(start, stop), shards.roles(start, stop)
        asked = roles == SUPERVISED
        decode = corpus.tokenizer.decode
        found.append((decode(ids[~asked]), decode(ids[asked])))
    return found


def text_of(shards: Shards, corpus: Corpus) -> str:
    return corpus.tokenizer.decode(shards.slice(0, len(shards)), skip_special_tokens=True)


@pytest.mark.parametrize("key", ["lyrics.jsonl", "2"])
def test_a_source_has_fields_of_its_own(place, key):
    data = {"sources": ["reviews.jsonl", "lyrics.jsonl"], "source": {key: {"text_field": "words"}}}
    corpus = prepare(resolve({"data": data}).data, CHAR)
    learnt = text_of(corpus.train, corpus) + text_of(corpus.val, corpus)
    assert all(f"review {n}" in learnt for n in range(30))
    assert all(f"lyric {n}" in learnt for n in range(20))
    assert "not this" not in learnt


def test_another_field_is_another_corpus(place):
    keys = ({}, {"2": {"text_field": "words"}}, {"2": {"text_field": "text"}})
    folders = [
        prepare(DataConfig(sources=("reviews.jsonl", "lyrics.jsonl"), source=source), CHAR).folder for source in keys
    ]
    assert folders[0] == folders[2] != folders[1]


def test_records_of_two_shapes_become_the_same_layout(place):
    own = SourceConfig(prompt_field=("ask",), response_field="say")
    config = DataConfig(sources=("answers.jsonl", "others.jsonl"), template="response", source={"others.jsonl": own})
    corpus = prepare(config, CHAR, context=64)
    found = rows(corpus, corpus.train) + rows(corpus, corpus.val)
    expected = [(f"<prompt>q{n}<response>", f"answer {n}</response>") for n in range(40)]
    expected += [(f"<prompt>Q{n}<response>", f"ANSWER {n}</response>") for n in range(40)]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("weights", [(), (3.0, 1.0)])
@pytest.mark.parametrize("context", [16, 64])
def test_plain_text_beside_records_is_learnt_whole(place, weights, context):
    """Every character of the text is asked for once, in rows that fit; records stay as they are."""
    source = {"prose.txt": {"template": "text"}}
    sources = ("answers.jsonl", "prose.txt")
    config = DataConfig(sources=sources, template="response", source=source, weights=weights)
    corpus = prepare(config, CHAR, context=max(context, 32))
    found = rows(corpus, corpus.train), rows(corpus, corpus.val)
    texts = ["".join(asked for _, asked in split if not asked.endswith("</response>")) for split in found]
    assert "".join(texts) == PROSE
    assert len(texts[1]) == pytest.approx(0.1 * len(PROSE), abs=50)  # its end is held out
    records = [row for split in found for row in split if row[1].endswith("</response>")]
    assert sorted(records) == sorted((f"<prompt>q{n}<response>", f"answer {n}</response>") for n in range(40))
    parts = corpus.train_parts()
    assert [len(rows(corpus, part)) for part in parts] == [36, corpus.train.n_documents - 36]
    assert corpus.tally.examples == 40  # of records alone
    assert max(len(context) + len(asked) for context, asked in found[0]) <= 200


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"source": {"lyric.jsonl": {}}}, "neither a source nor .*; did you mean 'lyrics.jsonl'"),
        ({"source": {"3": {}}}, "data.source has '3', which is neither a source nor the number of one .1 to 2."),
        ({"source": {"0": {}}}, "data.source has '0'"),
        ({"source": {"2": {}, "lyrics.jsonl": {}}}, "twice"),
        ({"source": {"2": {"template": "song"}}}, "template"),
        ({"source": {"2": {"txt_field": "words"}}}, "txt_field"),
    ],
)
def test_what_makes_no_sense_is_refused(place, data, expected):
    with pytest.raises(ConfigError, match=expected):
        resolve({"data": {"sources": ["reviews.jsonl", "lyrics.jsonl"]} | data})


def test_a_missing_field_is_named_with_its_option(place):
    with pytest.raises(DataError, match=r"lyrics.jsonl, line 1: there is no field 'word', only"):
        prepare(DataConfig(sources=("reviews.jsonl", "lyrics.jsonl"), source={"2": {"text_field": "word"}}), CHAR)


def test_from_the_command_line_a_file_and_python(place, capsys):
    train = ["train", "reviews.jsonl", "lyrics.jsonl", "--data.weights", "1", "--data.weights", "2", *SMALL]
    assert run([*train, "--data.source.2.text_field", "words", "--out", "flags"], 0.0) == 0
    Path("my.toml").write_text(
        '[data]\nsources = ["reviews.jsonl", "lyrics.jsonl"]\nweights = [1, 2]\n'
        '[data.source."lyrics.jsonl"]\ntext_field = "words"\n',
        encoding="utf-8",
    )
    assert run(["train", "my.toml", *SMALL, "--out", "file"], 0.0) == 0
    settings = {"data": {"weights": [1, 2], "source": {"lyrics.jsonl": {"text_field": "words"}}}}
    settings |= {"model": {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 32}, "tokenizer": {"kind": "char"}}
    api.train("reviews.jsonl", "lyrics.jsonl", out="python", settings=settings | {"train": {"max_steps": 3}})
    folders = {json.loads(Path(name, "data.json").read_text())["folder"] for name in ("flags", "file", "python")}
    assert len(folders) == 1
    saved = tomllib.loads(Path("file/config.toml").read_text(encoding="utf-8"))
    assert saved["data"]["source"] == {"lyrics.jsonl": {"text_field": "words", "prompt_field": []}}
    assert run(["train", "--resume", "file"], 0.0) == 0
    assert run(["data", "audit", "reviews.jsonl", "lyrics.jsonl", "--data.source.2.text_field", "words"], 0.0) == 0
    # A name with a dot would be read as two keys: it is refused rather than dropped.
    assert run([*train, "--data.source.lyrics.jsonl.text_field", "words", "--out", "no"], 0.0) == 2
    assert "flags name a source by its number, as data.source.2" in capsys.readouterr().err
    assert run([*train, "--data.source.2.genre", "rock", "--out", "no"], 0.0) == 2
    assert "data.source.2.genre = 'rock' has no effect without data.template" in capsys.readouterr().err


def test_records_and_base_text_together_in_finetuning(place, capsys):
    """The cure for forgetting: some of the old text among the new records; the run answers, and samples are answers."""
    assert run(["train", "prose.txt", *SMALL, "--out", "base"], 0.0) == 0
    flags = ["--data.template", "response", "--data.source.2.template", "text", "--data.weights", "3"]
    flags += ["--data.weights", "1", "--train.max_steps", "3", "--train.threads", "1", "--train.batch_size", "2"]
    assert run(["finetune", "base", "answers.jsonl", "prose.txt", *flags, "--out", "tuned"], 0.0) == 0
    assert "75% answers.jsonl" in capsys.readouterr().err
    opened = api.load("tuned")
    assert opened.template is not None
    assert opened.prompt("q1") == opened.template.prompt_ids(opened.tokenizer, "q1")
    assert opened.evaluate(adherence=True, limit=4)["adherence"]["prompt_information"]["songs"] == 4
    assert run(["train", "--resume", "tuned"], 0.0) == 0
    assert run(["data", "audit", "answers.jsonl", "prose.txt", *flags[:4]], 0.0) == 0


def test_a_run_with_a_field_of_its_own_is_evaluated_on_plain_text_too(place):
    assert run(["train", "lyrics.jsonl", "--data.text_field", "words", *SMALL, "--out", "lyrics"], 0.0) == 0
    assert run(["evaluate", "lyrics", "--text", "prose.txt"], 0.0) == 0
