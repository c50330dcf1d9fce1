"""What is trained on a bare text, beside what flags ask for."""

import json
import random
from pathlib import Path

import pytest

from primegpt import api
from primegpt.config import Config, Layer, TrainConfig, resolve, write_toml
from primegpt.config.layers import PRESETS
from primegpt.data.audit import audit_corpus
from primegpt.data.preparing.prepare import prepare
from primegpt.errors import ConfigError
from primegpt.inference.run import load_config
from primegpt.jobs.configuring import configure, rate_for
from primegpt.model.size import parameter_count
from primegpt.planning.law import STATED_RATES
from primegpt.run.folder import RunFolder


def rates(path: Path, **flags: dict[str, object]) -> tuple[float, float | None]:
    path.write_text("to be or not to be\n" * 60_000, encoding="utf-8")
    flags["train"] = {"device": "cpu", "max_steps": 100} | flags.get("train", {})
    train = configure([str(path)], Layer(flags)).train
    return train.learning_rate, train.head_learning_rate


def test_flags_stand_above_the_measured_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("primegpt.jobs.configuring.training_rate", lambda *_: 4e11)  # what six seconds suffice for
    text = tmp_path / "text.txt"
    assert rates(text) == pytest.approx((1.28 / 192, 0.5 / 192))
    assert rates(text, train={"learning_rate": 1e-4}) == (1e-4, None)  # the head goes with the others
    assert rates(text, train={"head_learning_rate": 1e-3}) == pytest.approx((1.28 / 192, 1e-3))
    assert rates(text, tokenizer={"kind": "bpe"}) == pytest.approx((1.28 / 64, None))  # too few tokens for more
    assert rates(text, model={"n_embd": 64}) == pytest.approx((1.28 / 64, None))
    assert rates(text, train={"max_steps": None, "minutes": 0.1}) == pytest.approx((1.28 / 64, None))
    assert rates(text, model={"tie_embeddings": True}) == pytest.approx((1.28 / 192, None))
    assert rates(text, train={"optimizer": "adamw"}) == (3e-3, None)
    assert rates(text, model={"preset": "gpt2"}) == (6e-4, None)


def test_a_runs_configuration_is_read_as_it_was_saved(tmp_path: Path) -> None:
    saved = write_toml(resolve({"model": {"preset": "prime"}}))
    (tmp_path / "config.toml").write_text(saved.replace("embedding_norm = true\n", ""), encoding="utf-8")
    assert load_config(RunFolder(tmp_path)).model.embedding_norm is False
    assert PRESETS["prime"]["model"]["embedding_norm"]


def songs(path: Path, words: int, count: int = 60) -> Path:
    """Songs of `words` words, a few of them twenty times as long."""
    lines = [("river stone moon " * words)[: 5 * words] for _ in range(count)]
    lines[7] = lines[7] * 20
    rows = [{"prompt": f"song {n}", "lyrics": f"{n} {line}"} for n, line in enumerate(lines)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.parametrize("words", [10, 150, 900, 5000])
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_context_is_chosen_that_records_fit_into(tmp_path, words, kind):
    """Measured afterwards on the shards: a fiftieth of what is to be learnt is cut, unless a bound says otherwise."""
    flags = {
        "data": {"template": "song"},
        "tokenizer": {"kind": kind, "vocab_size": 300} if kind == "bpe" else {"kind": kind},
    }
    flags["train"] = {"device": "cpu"}
    config = configure([str(songs(tmp_path / "songs.jsonl", words))], Layer(flags))
    chosen = config.model.block_size
    assert 256 <= chosen <= 2048
    assert chosen % 64 == 0
    corpus = prepare(config.data, config.tokenizer, context=chosen)
    if chosen < 2048:
        assert corpus.tally.cut_share <= 0.025
    assert chosen >= min(2048, 0.9 * (corpus.tally.fitting_context() or 0))
    assert 1 <= config.train.batch_size <= 8


def test_lyrics_are_read_to_their_end(tmp_path):
    """Songs of 100 to 1,500 tokens, without prompts, had a context of 256 and lost 63% of their tokens, unsaid."""
    draw = random.Random(1)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 7))) for _ in range(600)]
    sizes = [int(100 * 15 ** draw.betavariate(2, 3)) for _ in range(150)]  # words; many of some 300, few of 1,500
    lines = [" ".join(draw.choices(words, k=6)) for _ in range(5000)]
    rows = [{"prompt": "", "genre": "rock", "lyrics": "\n".join(draw.choices(lines, k=size // 6))} for size in sizes]
    path = tmp_path / "lyrics.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    flags = {"data": {"template": "song", "genre_field": "genre"}, "train": {"device": "cpu"}}
    config = configure([str(path)], Layer(flags))
    corpus = prepare(config.data, config.tokenizer, context=config.model.block_size)
    assert corpus.tally.cut_share <= 0.02
    assert not [line for line in audit_corpus(corpus, None, 10**6).warnings if "cut" in line]
    short = prepare(config.data, config.tokenizer, context=256)
    (warning,) = [line for line in audit_corpus(short, None, 10**6).warnings if "cut" in line]
    assert f"{short.tally.cut_supervised:,} tokens to be learnt are cut off" in warning
    assert "raise --model.block_size" in warning


def test_what_is_asked_for_is_taken_and_nothing_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("primegpt.jobs.configuring.record_lengths", lambda *_: pytest.fail("nothing to be chosen"))
    path = str(songs(tmp_path / "songs.jsonl", 900))
    for flags in ({"model": {"block_size": 96}}, {"train": {"sequence_length": 96}}):
        config = configure([path], Layer({"data": {"template": "song"}} | flags))
        assert config.sequence_length == 96
        assert config.train.batch_size == 8  # as before there was a choice


@pytest.mark.parametrize(
    "settings",
    [
        {"train": {"device": 1e-300}},
        {"train": {"device": [[]]}},
        {"train": {"minutes": "soon"}},
        {"model": {"n_embd": "wide"}},
        {"data": {"sources": 5}},
        {"data": 5},
        {"train": None},
        {"model": {"preset": {}}},
        [1],
        {1: 2},
    ],
    ids=str,
)
def test_settings_of_another_kind_are_refused_before_anything_is_made_of_them(tmp_path, settings):
    """They were looked into before they were checked: KeyError, TypeError, AttributeError."""
    with pytest.raises(ConfigError) as caught:
        api.train(tmp_path / "text.txt", settings=settings)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_flags_that_contradict_each_other_are_refused_before_a_text_is_looked_for() -> None:
    with pytest.raises(ConfigError, match=r"train\.minutes and train\.epochs are budgets"):
        configure(["nowhere.txt"], Layer({"train": {"minutes": 1.0, "epochs": 2.0}}))


def test_the_rate_of_counted_steps_and_of_ranks_is_no_measurement(monkeypatch):
    """A Mac took an H100's, and 97M parameters for 20 MB; ranks of one CPU each counted as a machine."""
    monkeypatch.setattr("primegpt.jobs.configuring.training_rate", lambda *_: 7.0)
    assert rate_for(TrainConfig(), "cpu", counted=False) == 7.0
    for device in ("cpu", "mps"):
        assert rate_for(TrainConfig(), device, counted=True) == STATED_RATES["cpu"]
    assert rate_for(TrainConfig(), "cuda", counted=True) == STATED_RATES["cuda"]
    ranks = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (ranks | {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    assert rate_for(TrainConfig(), "cpu", counted=False) == STATED_RATES["cpu"]
    assert rate_for(TrainConfig(), "cuda", counted=False) == 2 * STATED_RATES["cuda"]


def chosen(path: Path, kilobytes: int, **flags: dict[str, object]) -> Config:
    path.write_text("to be or not to be\n" * (kilobytes * 1000 // 19), encoding="utf-8")
    flags["train"] = {"device": "cpu", "max_steps": 2000} | flags.get("train", {})
    return configure([str(path)], Layer(flags))


@pytest.mark.parametrize("kilobytes", [50, 100, 200, 500, 900, 1500])
def test_counted_steps_have_no_network_that_the_audit_would_call_too_large(kilobytes, tmp_path):
    model = chosen(tmp_path / "text.txt", kilobytes).with_values(model={"vocab_size": 96}).model
    assert parameter_count(model) <= 2 * 1000 * kilobytes or (model.n_layer, model.n_embd) == (2, 64)


def test_the_network_goes_by_the_tokens_that_a_text_will_be(tmp_path):
    text = tmp_path / "text.txt"
    assert chosen(text, 1500).model.n_embd == 192
    assert chosen(text, 1500, tokenizer={"kind": "gpt2"}).model.n_embd < 192


@pytest.mark.parametrize("context", [64, 128, 1024])
def test_a_step_has_its_tokens_at_any_context(context, tmp_path):
    for flags in ({"model": {"block_size": context}}, {"train": {"sequence_length": min(context, 256)}}):
        config = chosen(tmp_path / "text.txt", 1000, **flags)
        assert config.train.batch_size * config.sequence_length == 2048
