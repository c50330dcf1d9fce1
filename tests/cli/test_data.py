"""`primegpt data` from the command line, and the warnings that `primegpt train` gives before it spends time."""

import json
import shutil
from pathlib import Path

import pytest

from primegpt.cli.main import run
from primegpt.data.songbook import songbook
from primegpt.evaluation.adherence import word_overlap

MODEL = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--model.block_size", "16"]
TINY = [*MODEL, "--train.max_steps", "1", "--data.val_tokens", "64", "--train.threads", "1", "--out", "run"]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("copied.txt").write_text("".join(f"line {n} of a small text\n" for n in range(100)) * 30, encoding="utf-8")
    return tmp_path


def test_audit_is_a_table_with_warnings(place, capsys):
    assert run(["data", "audit", "copied.txt", "--model-parameters", "1000000"], 0.0) == 0
    out = capsys.readouterr().out
    assert "size              71.7 KB in 1 document" in out
    assert "per parameter" in out
    assert "warning           97% of the text repeats what stood before" in out


def test_audit_as_json(place, capsys):
    assert run(["data", "audit", "copied.txt", "--json"], 0.0) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["repeated_share"] == pytest.approx(29 / 30, abs=0.01)
    assert any("repeats what stood before" in line for line in facts["warnings"])


def test_audit_of_a_recipe_cleans_as_it_says_and_knows_its_model(place, capsys):
    Path("a.jsonl").write_text('{"lyrics": "<b>la</b>"}\n' * 5 + '{"lyrics": "lo"}\n', encoding="utf-8")
    Path("my.toml").write_text(
        '[data]\nsources = ["a.jsonl"]\ntext_field = "lyrics"\nduplicates = "exact"\n'
        '[tokenizer]\nkind = "char"\n[model]\nn_layer = 1\nn_embd = 8\nn_head = 1\nblock_size = 8\n',
        encoding="utf-8",
    )
    assert run(["data", "audit", "--config", "my.toml", "--json"], 0.0) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert facts["n_documents"] == 2
    assert facts["tokens"] == 11
    assert 1000 < facts["n_parameters"] < 3000
    assert "2 of 6 documents are left; dropped: 4 exact copies" in captured.err


def test_a_field_of_another_name(place, capsys):
    Path("a.jsonl").write_text('{"lyrics": "la"}\n', encoding="utf-8")
    assert run(["data", "audit", "a.jsonl"], 0.0) == 2
    assert "there is no field 'text', only 'lyrics'" in capsys.readouterr().err
    assert run(["data", "audit", "a.jsonl", "--data.text_field", "lyrics"], 0.0) == 0


@pytest.mark.parametrize(("name", "count"), [("book.jsonl", 5), ("book.txt", 1)])
def test_a_songbook_is_a_source(place, capsys, name, count):
    assert run(["data", "songbook", "--out", name, "--songs", "5", "--alignment", "0.5", "--seed", "3"], 0.0) == 0
    assert capsys.readouterr().out == f"{name}\n"
    assert run(["data", "audit", name, "--json"], 0.0) == 0
    assert json.loads(capsys.readouterr().out)["n_documents"] == count


def test_a_songbook_of_another_kind_is_refused(place, capsys):
    assert run(["data", "songbook", "--out", "book.pdf"], 0.0) == 2
    assert "book.pdf: a songbook is written as .jsonl or .txt" in capsys.readouterr().err
    assert run(["data", "songbook", "--out", "a.txt", "--alignment", "2"], 0.0) == 2


def test_records_of_a_songbook_hold_all_that_is_known(place):
    assert run(["data", "songbook", "--out", "book.jsonl", "--songs", "3"], 0.0) == 0
    first = json.loads(Path("book.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert set(first) == {"text", "prompt", "genre", "emotion", "themes", "title", "lyrics", "aligned", "written_to"}
    assert first["text"] == f"{first['prompt']}\n\n{first['lyrics']}"
    assert first["written_to"]["genre"] == first["genre"]


def test_pairs_of_a_songbook_prefer_the_song_that_was_written_to_the_prompt(place, capsys):
    assert run(["data", "songbook", "--out", "pairs.jsonl", "--songs", "200", "--pairs", "--seed", "4"], 0.0) == 0
    pairs = [json.loads(line) for line in Path("pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    for pair, song in zip(pairs, songbook(200, seed=4), strict=True):
        assert (pair["prompt"], pair["chosen"], pair["genre"]) == (song.prompt, song.lyrics, song.genre)
        assert pair["rejected"] != pair["chosen"]
    own, others = (
        word_overlap([p["prompt"] for p in pairs], [p[kind] for p in pairs]) for kind in ("chosen", "rejected")
    )
    assert own.diagonal().mean() > 0.4 > 0.2 > others.diagonal().mean()
    assert abs(others.diagonal().mean() - others.mean()) < 0.05  # as misaligned as any other song
    assert run(["data", "songbook", "--out", "pairs.jsonl", "--pairs", "--alignment", "0"], 0.0) == 2
    assert "leave --alignment out" in capsys.readouterr().err


def test_tasks_are_conversations_with_an_answer(place, capsys):
    flags = ["--kind", "add", "--records", "6", "--level", "1", "--level", "3"]
    assert run(["data", "tasks", *flags, "--out", "add.jsonl"], 0.0) == 0
    assert capsys.readouterr().out == "add.jsonl\n"
    records = [json.loads(line) for line in Path("add.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["level"] for record in records] == [1, 3] * 3
    assert all(sum(map(int, r["messages"][0]["content"].split(" + "))) == int(r["answer"]) for r in records)
    assert run(["data", "prepare", "add.jsonl", "--data.template", "chat", "--tokenizer.kind", "char"], 0.0) == 0
    for wrong, said in (
        (["--kind", "ad", "--out", "x.jsonl"], "ad"),
        (["--kind", "add", "--out", "x.jsonl", "--level", "99"], "level = 99"),
        (["--kind", "add", "--out", "x.txt"], "x.txt: records are written as .jsonl"),
        (["--kind", "add", "--out", "x.jsonl", "--records", "101"], "level 1 of 'add' has about"),
    ):
        assert run(["data", "tasks", *wrong], 0.0) == 2
        assert said in capsys.readouterr().err
        assert not list(Path().glob("x.*"))


def test_an_unknown_corpus_is_one_line(place, capsys):
    assert run(["data", "fetch", "shakespear"], 0.0) == 2
    assert "did you mean 'shakespeare'?" in capsys.readouterr().err


def test_train_warns_before_it_spends_time_and_keeps_the_audit(place, capsys):
    assert run(["train", "copied.txt", *TINY], 0.0) == 0
    lines = capsys.readouterr().err.splitlines()
    warned = next(at for at, line in enumerate(lines) if line.startswith("warning    97% of the text repeats"))
    planned = next(at for at, line in enumerate(lines) if line.startswith("expected"))
    assert warned < planned
    kept = json.loads(Path("run/data.json").read_text(encoding="utf-8"))["audit"]
    assert kept["n_documents"] == 1
    assert kept["warnings"][0] in lines[warned]
    assert run(["train", "--resume", "run"], 0.0) == 0


def test_prepare_shows_what_is_supervised(place, capsys):
    song = {"prompt": "a song", "genre": "rock", "lyrics": "[Chorus]\nla la\n[Solo]\nla"}
    (place / "songs.jsonl").write_text((json.dumps(song) + "\n") * 12, encoding="utf-8")
    arguments = ["data", "prepare", "songs.jsonl", "--data.template", "song", "--preview", "2"]
    assert run([*arguments, "--tokenizer.kind", "char"], 0.0) == 0
    printed = capsys.readouterr().out
    assert "context:\n<prompt><genre_rock>a song\n<song>" in printed
    assert "supervised:\n\n[chorus]\nla la\n[Solo]\nla\n</song>" in printed
    assert "headers              [chorus] ×12" in printed
    assert "unknown headers      [Solo] ×12" in printed
    assert run([*arguments, "--json", "--tokenizer.kind", "char"], 0.0) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["examples"] == 12
    assert 0.5 < facts["supervised_share"] < 0.9
    assert facts["headers"] == {"[chorus]": 12}
    assert [each["context"] for each in facts["previews"]] == ["<prompt><genre_rock>a song\n<song>"] * 2


def test_prepare_in_parts(place, capsys):
    """Two calls, as on two machines, leave what one would, and train finds it."""
    assert run(["tokenizer", "train", "copied.txt", "--kind", "bpe", "--vocab-size", "270", "--out", "tok"], 0.0) == 0
    arguments = ["data", "prepare", "copied.txt", "--tokenizer.path", "tok"]
    capsys.readouterr()
    assert run([*arguments, "--shard", "2/2", "--json"], 0.0) == 0  # of so small a text the second part is all
    whole = json.loads(capsys.readouterr().out)
    shutil.rmtree(whole["folder"])
    assert run([*arguments, "--shard", "1/2", "--preview", "1"], 0.0) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1:] == ["part                 1/2", "missing              2/2"]
    assert "part 1 of 2 has nothing to do: the text is too small for so many, 1 would do" in captured.err
    assert run([*arguments, "--shard", "2/2", "--json"], 0.0) == 0
    assert json.loads(capsys.readouterr().out) == whole
    assert run(["train", "copied.txt", "--tokenizer.path", "tok", *TINY], 0.0) == 0
    assert "tokenizing" not in capsys.readouterr().err
    assert json.loads(Path("run/data.json").read_text(encoding="utf-8"))["folder"] == whole["folder"]


@pytest.mark.parametrize("shard", ["", "0/2", "3/2", "2", "a/b", "-1/2"])
def test_what_is_no_part_is_one_line(place, capsys, shard):
    assert run(["data", "prepare", "copied.txt", f"--shard={shard}"], 0.0) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith((f"primegpt: --shard {shard!r}:", f"primegpt: --shard {shard}:"))
    assert captured.err.count("\n") == 1


def test_a_part_that_would_learn_a_tokenizer_is_one_line(place, capsys):
    assert run(["data", "prepare", "copied.txt", "--shard", "1/2"], 0.0) == 2
    assert "primegpt: part 1 of 2 cannot train a char tokenizer, which all parts need" in capsys.readouterr().err
