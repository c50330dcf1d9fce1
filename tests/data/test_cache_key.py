"""The cache serves what a preparation in an empty cache would make: its key knows whatever decides a token or role."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.prepare import prepare
from primegpt.errors import DataError

CHAR = TokenizerConfig(kind="char")
Records = list[dict[str, Any]]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(records: Records, name: str = "data.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return name


def content(corpus: Corpus) -> dict[str, Any]:
    """Everything that a training or a preview sees of a corpus."""
    found: dict[str, Any] = {
        "documents": (corpus.n_documents, corpus.train_documents),
        "tokenizer": corpus.tokenizer.fingerprint,
        "tally": corpus.tally.as_json(),
    }
    for name, shards in (("train", corpus.train), ("val", corpus.val)):
        found[f"{name} tokens"] = shards.slice(0, len(shards)).tolist()
        found[f"{name} starts"] = shards.document_starts.tolist()
        found[f"{name} roles"] = shards.roles(0, len(shards)).tolist() if shards.has_roles else None
        found[f"{name} sizes"] = (shards.text_bytes, shards.supervised_tokens)
    return found


def chat(number: int) -> dict[str, Any]:
    words = ("where is the river", "behind the hill", "and the bridge", "it fell down")
    roles = ("user", "assistant", "user", "assistant")
    return {
        "messages": [{"role": role, "content": f"{text} {number}"} for role, text in zip(roles, words, strict=True)]
    }


def song(number: int) -> dict[str, Any]:
    lyrics = f"[Verse]\nDown by the river {number}\n[Chorus]\nOh, my river\n[Solo]\nla la"
    return {"prompt": f"a song about river {number}", "genre": "rock", "emotion": "sad", "lyrics": lyrics}


def pair(number: int) -> dict[str, Any]:
    return {"prompt": f"what is {number}?", "response": f"it is {number}, ab"}


MAKERS: dict[str, Callable[[int], dict[str, Any]]] = {"chat": chat, "song": song, "response": pair}


def records_of(template: str) -> Records:
    return [MAKERS[template](number) for number in range(12)]


def put(*path: Any, value: Any) -> Callable[[Records], None]:
    """An edit of one value in the records."""

    def edit(records: Records) -> None:
        place: Any = records
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return edit


def every_role(right: str, wrong: str) -> Callable[[Records], None]:
    def edit(records: Records) -> None:
        for record in records:
            for message in record["messages"]:
                message["role"] = wrong if message["role"] == right else right

    return edit


def moved_border(records: Records) -> None:
    """The last letter of a prompt is the first of its answer."""
    for record in records:
        record["prompt"], record["response"] = record["prompt"][:-1], record["prompt"][-1] + record["response"]


EDITS = {
    "roles corrected": ("chat", every_role("user", "assistant"), {}),
    "one role": ("chat", put(3, "messages", 0, "role", value="system"), {}),
    "one message made two": (
        "chat",
        lambda records: records[2]["messages"].__setitem__(
            slice(0, 1), [{"role": "user", "content": "where is the"}, {"role": "user", "content": " river 2"}]
        ),
        {},
    ),
    "a letter": ("chat", put(5, "messages", 1, "content", value="behind the hall 5"), {}),
    "a message that is not trained on": ("chat", put(3, "messages", 1, "weight", value=0), {}),
    "the border of a pair": ("response", moved_border, {}),
    "a genre": ("song", put(4, "genre", value="pop"), {}),
    "an emotion": ("song", put(4, "emotion", value="happy"), {}),
    "a label left out": ("song", lambda records: records[4].pop("genre"), {}),
    "a section header": ("song", put(4, "lyrics", value="[Bridge]\nDown by the river 4"), {}),
    "a title is nothing that is learnt": ("song", put(4, "title", value="River"), {}),
    "data.structure": ("song", None, {"structure": "keep"}),
    "data.drop_labels": ("song", None, {"drop_labels": True}),
    "data.genre": ("song", lambda records: records[0].pop("genre"), {"genre": "rap"}),
    "data.emotion": ("song", lambda records: records[0].pop("emotion"), {"emotion": "happy"}),
    "data.genre_field": ("song", None, {"genre_field": "kind"}),
    "data.emotion_field": ("song", None, {"emotion_field": "mood"}),
    "data.prompt_field": ("song", None, {"prompt_field": "emotion"}),
    "data.response_field": ("response", None, {"response_field": "prompt"}),
    "data.template": ("response", None, {"template": "song", "response_field": "response"}),
    "data.val_fraction": ("chat", None, {"val_fraction": 0.3}),
}


@pytest.mark.parametrize("name", EDITS)
def test_one_change_at_a_time_is_prepared_as_in_an_empty_cache(home, name):
    template, edit, settings = EDITS[name]
    before, after = records_of(template), records_of(template)
    if edit:
        edit(after)
    first = prepare(DataConfig(sources=(written(before),), template=template), CHAR, cache=home / "cache")
    config = DataConfig(**{"sources": (written(after),), "template": template} | settings)
    found, fresh = (prepare(config, CHAR, cache=home / cache) for cache in ("cache", "empty"))
    assert content(found) == content(fresh)
    assert (content(found) == content(first)) == name.endswith("nothing that is learnt")


def test_unknown_headers_of_songs_are_told_of_the_settings_asked_for(home):
    """Where no line becomes an id, `structure` changes no token, and yet what is said of them."""
    records = [{"prompt": "a song", "lyrics": f"[Solo]\nla {number}"} for number in range(12)]
    config = DataConfig(sources=(written(records),), template="song")
    kept = prepare(config.model_copy(update={"structure": "keep"}), CHAR, cache=home / "cache")
    parsed = prepare(config, CHAR, cache=home / "cache")
    assert (kept.tally.unknown_headers, parsed.tally.unknown_headers) == ({}, {"[Solo]": 12})


def test_labels_of_ones_own_are_known_before_there_is_a_tokenizer(home):
    records = [song(number) | {"genre": "jazz" if number % 2 else "folk"} for number in range(12)]
    own = TokenizerConfig(kind="char", special_tokens={"genre": ("<genre_jazz>", "<genre_folk>")})
    corpus = prepare(DataConfig(sources=(written(records),), template="song"), own, cache=home / "cache")
    assert corpus.tokenizer.token_id("<genre_jazz>") in corpus.train.slice(0, len(corpus.train))


# ---- many changes at random


LETTERS = "abc [\n]é"
SETTINGS: dict[str, tuple[Any, ...]] = {
    "val_fraction": (0.1, 0.2, 0.5),
    "structure": ("parse", "keep"),
    "drop_labels": (False, True),
    "genre": (None, "pop", "random"),
    "emotion": (None, "sad"),
    "genre_field": ("genre", "emotion", "none"),
    "prompt_field": ("prompt", "text"),
    "duplicates": ("keep", "exact"),
    "max_bytes": (None, 900),
    "min_length": (None, 20),
    "weights": ((), (1.0, 2.0)),
    "context": (40, 200),
}


def random_record(draw: random.Random) -> dict[str, Any]:
    def words() -> str:
        return draw.choice(("", "[Chorus]\n", "[x]\n")) + "x" + "".join(draw.choices(LETTERS, k=draw.randint(0, 30)))

    messages = [{"role": draw.choice(("user", "system")), "content": words()} for _ in range(draw.randint(0, 3))]
    messages.append({"role": "assistant", "content": words()})
    labels = {name: draw.choice(names) for name, names in (("genre", ("pop", "rap")), ("emotion", ("sad", "happy")))}
    return {"text": words(), "prompt": words(), "response": words(), "lyrics": words(), "messages": messages, **labels}


def edit_something(draw: random.Random, files: list[Records], settings: dict[str, Any]) -> None:
    """One random edit: of a setting, or of a record, a message, a border, a role, a file, or the order."""
    if draw.random() < 0.4:
        name = draw.choice(list(SETTINGS))
        settings[name] = draw.choice((SETTINGS[name][0], *SETTINGS[name]))
        return
    records = draw.choice(files)
    place = draw.randrange(len(records))
    record = records[place] = copy.deepcopy(records[place])
    kind = draw.choice(("field", "border", "role", "weight", "split", "drop", "new", "swap", "file"))
    if kind == "field":
        name = draw.choice(("text", "prompt", "response", "lyrics", "genre", "emotion"))
        record[name] = random_record(draw)[name]
    elif kind == "border":
        one, other = draw.choice((("prompt", "response"), ("prompt", "lyrics"), ("text", "prompt")))
        both = record[one] + record[other]
        record[one], record[other] = both[: len(both) // 2], both[len(both) // 2 :]
    elif kind == "weight":
        draw.choice(record["messages"])["weight"] = draw.choice((0, 1))
    elif kind == "role":
        record["messages"][0]["role"] = draw.choice(("user", "system", "assistant"))
    elif kind == "split":
        text = record["messages"][0]["content"]
        record["messages"][:1] = [record["messages"][0] | {"content": part} for part in (text[:2], text[2:])]
    elif kind == "drop" and len(records) > 6:
        records.pop(place)
    elif kind == "swap":
        records[place], records[0] = records[0], records[place]
    elif kind == "file" and len(records) > 6:  # the first of one file is the last of the one before
        files[0].append(files[1].pop(0))
    else:
        records.insert(place, random_record(draw))


def compare(home: Path, seed: int, edits: int) -> None:
    """Edits one after the other, each prepared through one cache and in an empty one: equal every time."""
    draw = random.Random(seed)
    files = [[random_record(draw) for _ in range(12)] for _ in range(2)]
    settings = {name: values[0] for name, values in SETTINGS.items()}
    refused = 0
    for number in range(edits):
        edit_something(draw, files, settings)
        sources = tuple(written(records, f"{name}.jsonl") for name, records in zip("ab", files, strict=True))
        for template in ("text", "song", "response", "chat"):
            values = {name: value for name, value in settings.items() if name != "context"}
            config = DataConfig(sources=sources, template=template, **values)
            found, fresh = (
                outcome(config, settings["context"], home / cache) for cache in ("shared", f"fresh-{number}")
            )
            assert found == fresh, (seed, number, template)
            refused += isinstance(found, str)
    assert refused < 3 * edits  # of 4


def outcome(config: DataConfig, context: int, cache: Path) -> dict[str, Any] | str:
    """The content of a corpus, or why there is none."""
    try:
        return content(prepare(config, CHAR, context=context, cache=cache))
    except DataError as error:
        return str(error)


def test_random_edits_are_prepared_as_in_an_empty_cache(home):
    compare(home, seed=0, edits=8)


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(1, 11))
def test_300_random_edits_are_prepared_as_in_an_empty_cache(home, seed):
    compare(home, seed, edits=30)
