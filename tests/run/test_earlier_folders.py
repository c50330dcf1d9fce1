"""Run folders and corpora of an earlier version are used as if this one had made them (tests/earlier/README.md)."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from primegpt import api
from primegpt.jobs import data

EARLIER = Path(__file__).parents[1] / "earlier"
RECORDED: dict[str, dict[str, Any]] = json.loads((EARLIER / "recorded.json").read_text(encoding="utf-8"))
RUNS = sorted(RECORDED)
STOPPED = 598
ROUNDING = 1e-5  # relative: other machines add up in another order


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in."""
    shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("PRIMEGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_sources(place: Path) -> None:
    """From now on only the prepared corpora are there."""
    for name in ("text.txt", "songs.jsonl"):
        (place / name).unlink()


def entries(place: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of the cache, with the time when it was written; locks come and go."""
    files = [path for path in (place / "cache/data").rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_writes_what_it_wrote(place: Path, name: str) -> None:
    said: list[str] = []
    run = api.load(name, say=said.append)
    for prompt, text in RECORDED[name]["texts"].items():
        assert run.generate(prompt, temperature=0.0, repetition_penalty=1.2, max_new_tokens=30) == text
    assert run.step == STOPPED
    assert said == []


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_judged_on_its_own_text_as_it_was(place: Path, name: str) -> None:
    without_sources(place)
    found, expected = api.load(name).evaluate()["text"], RECORDED[name]["loss"]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == (value if isinstance(value, str) else pytest.approx(value, rel=ROUNDING)), key


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_exported_to_the_same_bytes(place: Path, name: str) -> None:
    found = {}
    for form in sorted({path.split("/")[0] for path in RECORDED[name]["exported"]}):
        owner = "adapted/base" if form.startswith("adapted-base") else name
        how = {"to": "gguf", "dtype": Path(form).stem.split("-")[-1]} if form.endswith(".gguf") else {"to": "hf"}
        out = api.export(owner, place / "exported" / form, **how)
        for file in [path for path in out.rglob("*") if path.is_file()] or [out]:
            relative = file.relative_to(place / "exported").as_posix()
            found[relative] = hashlib.sha256(file.read_bytes()).hexdigest()
    assert found == RECORDED[name]["exported"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_as_it_would_have(place: Path, name: str) -> None:
    without_sources(place)
    before, said = entries(place), list[str]()
    run = api.resume(name, say=said.append)
    after = [row for row in run.metrics if row["step"] > STOPPED]
    expected = RECORDED[name]["resumed"]
    assert [{key: row[key] for key in kept} for row, kept in zip(after, expected, strict=True)] == [
        pytest.approx(row, rel=100 * ROUNDING) for row in expected
    ]
    assert f"continuing at step {STOPPED} of {STOPPED + 2}" in said
    assert not [line for line in said if line.startswith(("damaged", "changed"))]
    assert entries(place) == before


@pytest.mark.parametrize(
    ("source", "run", "settings"),
    [
        ("text.txt", "characters", {"tokenizer": {"kind": "char"}}),
        ("text.txt", "adapted", {"tokenizer": {"path": "characters/tokenizer"}}),
        (
            *("songs.jsonl", "songs"),
            {
                "tokenizer": {"kind": "sentencepiece", "vocab_size": 330},
                "data": {"template": "song"},
                "model": {"block_size": 96},
            },
        ),
    ],
)
def test_a_corpus_is_not_prepared_again(place: Path, source: str, run: str, settings: dict[str, Any]) -> None:
    before, said = entries(place), list[str]()
    prepared = data.prepare_data(source, settings=settings, say=said.append)
    record = json.loads((place / run / "data.json").read_bytes())
    assert Path(prepared.facts["folder"]) == place / "cache/data" / Path(record["folder"]).name
    assert prepared.facts["documents"] == record["n_documents"]
    assert said == []
    assert entries(place) == before
