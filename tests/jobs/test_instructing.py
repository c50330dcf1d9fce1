"""Back-instruction: the words it names are the texts' own, labels and form are true, and no line is quoted whole."""

import json
import os
import re
import threading
from pathlib import Path

import pytest

from primegpt.cli.main import run
from primegpt.data.songbook import songbook
from primegpt.errors import DataError, UsageError
from primegpt.evaluation.adherence import content_words, theme_overlap, word_adherence
from primegpt.evaluation.songform import parse_sections, words_of
from primegpt.jobs.instructing import instruct
from primegpt.jobs.instructions import Frequencies, distinctive, instruction_for, length_of, quotes, rounded, stream_for


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def lines(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def book() -> list[dict]:
    """300 songs whose prompts are of other songs: what is said of them has to come from the lyrics."""
    assert run(["data", "songbook", "--out", "book.jsonl", "--songs", "300", "--alignment", "0"], 0.0) == 0
    return lines("book.jsonl")


def test_instructions_fit_their_songs_as_prompts_that_these_were_written_to_do(book):
    """Beside the songbook's own prompts, which know what a song is about: nearly as much of them comes back."""
    instruct("book.jsonl", out="own.jsonl", labels="none")
    made = lines("own.jsonl")
    assert [record["lyrics"] for record in made] == [record["lyrics"] for record in book]
    lyrics = [record["lyrics"] for record in made]
    own = word_adherence([record["prompt"] for record in made], lyrics)
    before = word_adherence([record["prompt"] for record in book], lyrics)
    aligned = word_adherence([song.prompt for song in songbook(300)], lyrics)
    assert abs(before.lift) < 0.05 < 0.8 * aligned.lift < own.lift


def test_the_themes_it_names_are_mostly_what_a_song_was_written_to(book):
    instruct("book.jsonl", out="own.jsonl", labels="none")
    true = [song.written_to.themes for song in songbook(300, alignment=0)]
    named = [" ".join(record["themes"]) for record in lines("own.jsonl")]
    own = theme_overlap(true, named)
    assert own.diagonal().mean() > 0.6 > 10 * own.mean()


def test_what_it_says_of_form_and_labels_is_true(book):
    instruct("book.jsonl", out="own.jsonl", labels="text")
    agree = {"genre": 0, "emotion": 0}
    for record, song in zip(lines("own.jsonl"), songbook(300, alignment=0), strict=True):
        prompt, names = record["prompt"], [name for name, _ in parse_sections(record["lyrics"])]
        for name in re.findall(r"an? (intro|bridge|outro)", prompt):
            assert name in names
        if found := re.search(r"about (\d+) words", prompt):
            assert int(found[1]) == rounded(record["length"])
        for kind in agree:
            said = record.get(kind)
            agree[kind] += said == getattr(song.written_to, kind)
            assert not said or {"rb": "R&B"}.get(said, said) in prompt
    assert min(agree.values()) > 0.7 * 300


def test_wording_varies_and_hangs_on_the_seed(book):
    made = [instruct("book.jsonl", out=f"{n}.jsonl", seed=seed) for n, seed in enumerate((1, 1, 2))]
    assert made[0].facts["instructions"] == 300
    first, again, other = (Path(f"{n}.jsonl").read_bytes() for n in range(3))
    assert first == again != other
    openings = {" ".join(record["prompt"].split()[:2]) for record in lines("0.jsonl")}
    assert len(openings) > 20


def test_no_line_is_ever_quoted_whole():
    texts = [
        "the river and the stone",
        "river",
        "song\nwrite\na text",
        "go on",
        "a\nb\nc",
        "[verse]\nriver\nstone river",
    ]
    frequencies = Frequencies()
    for text in texts:
        frequencies.add(text)
    for text in texts:
        own = {tuple(words_of(line)) for line in text.splitlines() if words_of(line) and not line.startswith("[")}
        for seed in range(200):
            if made := instruction_for(text, frequencies, {}, stream_for(seed, 0)):
                assert not quotes(made.prompt, {line for line in own if len(line) > 1}), (made.prompt, text)
                assert not {(theme,) for theme in made.themes} & own
    assert quotes("write of the river and more", {("the", "river")})
    assert not quotes("write of the rivers", {("the", "river")})


def test_of_what_can_only_be_quoted_nothing_is_said():
    Path("a.jsonl").write_text('{"text": "a text\\ngo on"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="without quoting a line whole"):
        instruct("a.jsonl", out="b.jsonl")


def test_distinctive_words_are_those_that_others_lack_and_nouns_come_first():
    frequencies, text = Frequencies(), "we run by the sea\nwe saw a lantern\nit was bright"
    for each in ("we run and sing by the sea", "we run and cry by the sea", "we run home by the sea", text):
        frequencies.add(each)
    best = distinctive(text, frequencies)
    assert best[0].said == "the lantern"
    assert {theme.word for theme in best[:3]} == {"lantern", "saw", "bright"}
    assert "run" not in {theme.word for theme in best[:3]}


def test_a_noun_is_named_with_what_describes_it_in_the_text():
    text = "[verse]\nI keep the anchor all night long\noh, rusty anchor, hold me down\nthe anchor is strong and true"
    frequencies = Frequencies()
    for each in (text, "[verse]\nI keep the night\nthe song is strong", "[verse]\nhold me all night long"):
        frequencies.add(each)
    prompts = [instruction_for(text, frequencies, {}, stream_for(0, n)).prompt for n in range(40)]
    assert (
        sum("a rusty anchor" in prompt for prompt in prompts) > 10 < sum("the anchor" in prompt for prompt in prompts)
    )
    assert not any("the rusty" in prompt for prompt in prompts)


def test_texts_without_headers_become_responses_and_have_their_length():
    Path("texts").mkdir()
    for n, word in enumerate(["lantern", "harbour", "winter"]):
        Path(f"texts/{n}.txt").write_text(f"There was a {word} here.\nThe {word} was old.\n" * 5, encoding="utf-8")
    instruct("texts", out="own.jsonl")
    made = lines("own.jsonl")
    assert [set(record) for record in made] == [{"prompt", "themes", "length", "response"}] * 3
    assert all(record["length"] == 45 == length_of(record["response"]) for record in made)
    assert all("text" in record["prompt"] for record in made)
    assert "lantern" in " ".join(made[0]["themes"])
    assert content_words(made[0]["prompt"]) & content_words(made[0]["response"])
    assert run(["data", "prepare", "own.jsonl", "--data.template", "response", "--tokenizer.kind", "char"], 0.0) == 0


def test_of_records_with_lyrics_these_are_the_text(book, capsys):
    assert run(["data", "instruct", "book.jsonl", "--preview", "2"], 0.0) == 0
    captured = capsys.readouterr()
    assert "the texts are the field 'lyrics'" in captured.err
    assert captured.out.count("» ") == 2
    assert book[0]["lyrics"].splitlines()[1] in captured.out
    assert book[0]["prompt"] not in captured.out
    assert run(["data", "instruct", "book.jsonl", "--preview", "1", "--data.text_field", "title", "--json"], 0.0) == 0
    assert json.loads(capsys.readouterr().out)["previews"][0]["response"] == book[0]["title"]


def test_the_songbook_itself_and_labels_of_records():
    made = instruct("songbook", preview=20, settings={"data": {"songs": 20}}).previews
    for record, song in zip(made, songbook(20), strict=True):
        assert (record["genre"], record["emotion"], record["lyrics"]) == (song.genre, song.emotion, song.lyrics)


def test_stopped_and_gone_on_with_it_is_the_same_file(book, monkeypatch):
    instruct("book.jsonl", out="whole.jsonl")
    import primegpt.jobs.instructing as module

    calls, make = [], module.instruction_for

    def fails(*given):
        calls.append(given)
        if len(calls) == 100:
            raise KeyboardInterrupt
        return make(*given)

    monkeypatch.setattr(module, "instruction_for", fails)
    with pytest.raises(KeyboardInterrupt):
        instruct("book.jsonl", out="stopped.jsonl")
    instruct("book.jsonl", out="stopped.jsonl")
    assert Path("stopped.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert len(calls) == 301


def test_of_a_pipe_nothing_is_lost(monkeypatch):
    text = "".join(f"The lantern was on the harbour wall in winter {n}.\n" for n in range(4000))
    reads, writes = os.pipe()

    def write() -> None:
        with open(writes, "w") as pipe:
            pipe.write(text)

    with open(reads) as pipe:
        threading.Thread(target=write).start()
        monkeypatch.setattr("sys.stdin", pipe)
        instruct("-", out="own.jsonl")
    assert "".join(record["response"] for record in lines("own.jsonl")) == text.strip()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"out": None}, "there is no file to write to"),
        ({"out": "a.txt"}, "records are written as .jsonl"),
        ({"labels": "own"}, "labels = 'own'"),
        ({"settings": {"data": {"template": "song"}}}, "--data.template lays out records that have prompts"),
    ],
)
def test_what_cannot_be_done_is_one_line(book, asked, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        instruct("book.jsonl", **({"out": "refused.jsonl"} | asked))
