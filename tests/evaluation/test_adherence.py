"""Adherence of copies, of strangers and of nothing; intervals that cover what they say; nats taken from a prompt."""

import numpy as np
import pytest
import torch

from primegpt.data.songbook import EMOTIONS, GENRES, songbook
from primegpt.evaluation.adherence import (
    Adherence,
    adherence,
    content_words,
    fold,
    prompt_information,
    song_adherence,
    theme_overlap,
    voice_match,
    word_adherence,
    word_overlap,
)
from primegpt.model.gpt import GPT

SONGS = list(songbook(60, seed=3))
PROMPTS = [song.prompt for song in SONGS]


@pytest.mark.parametrize(
    "forms",
    [
        "river rivers river's", "love loves loved loving", "story stories", "kiss kisses kissed kissing", "run running",
        "ash ashes", "box boxes", "rose roses", "wish wished", "hope hoped", "bus buses", "fly flies",
    ],
)  # fmt: skip
def test_forms_of_a_word_are_folded(forms):
    assert len(set(map(fold, forms.split()))) == 1


@pytest.mark.parametrize("words", ["sing thing ring king bring", "red bed need", "star start", "rain train"])
def test_different_words_stay_apart(words):
    assert len(set(map(fold, words.split()))) == len(words.split())


def test_content_words():
    assert content_words("Can you write me a sad song about THE rivers?") == {"sad", "river"}
    assert content_words("don’t you want it") == content_words("") == set()


def test_the_scores_by_hand():
    scores = word_overlap(
        ["a sad river", "the and of", "moon"], ["rivers at night", "", "sadly, the MOON; a river; sad"]
    )
    expected = [[0.5, np.nan, 0], [0, np.nan, 0], [1, np.nan, 1]]
    np.testing.assert_array_equal(scores, expected)


def test_outputs_that_copy_the_prompt_adhere_fully():
    result = word_adherence(PROMPTS, [f"La la. {prompt.upper()}!" for prompt in PROMPTS])
    assert result.own == 1
    assert result.interval[0] > 0.5


def test_unrelated_outputs_are_as_near_as_any():
    strangers = [song.lyrics for song in songbook(len(PROMPTS), seed=99)]
    result = word_adherence(PROMPTS, strangers)
    assert result.shuffled > 0.02
    assert result.own == pytest.approx(result.shuffled, abs=0.05)
    assert result.interval[0] < 0 < result.interval[1]


def test_empty_outputs_have_nothing():
    result = word_adherence(PROMPTS, [""] * len(PROMPTS))
    assert (result.own, result.shuffled, result.lift, result.interval) == (0, 0, 0, (0, 0))


def test_prompts_that_ask_for_nothing_are_left_out():
    result = word_adherence(["", "write me a song about the", "red moon", "river"], ["x", "y", "red moon", "moon"])
    assert (result.pairs, result.skipped) == (2, 2)
    assert (result.own, result.shuffled, result.lift) == (0.5, 0.25, 0.25)
    assert word_adherence(["", "the"], ["x", "y"]) == Adherence(None, None, None, None, 0, 2)
    assert word_adherence(["river"], ["river"]) == Adherence(1, None, None, None, 1, 0)
    assert word_adherence([], []) == Adherence(None, None, None, None, 0, 0)


def test_the_shuffled_score_is_the_mean_of_all_shuffles():
    """Over 4,000 random derangements of the outputs."""
    random, scores = np.random.default_rng(0), np.random.default_rng(1).random((9, 9))
    means = []
    while len(means) < 4000:
        order = random.permutation(9)
        if (order != np.arange(9)).all():
            means.append(scores[np.arange(9), order].mean())
    assert adherence(scores).shuffled == pytest.approx(np.mean(means), abs=0.005)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """400 worlds in which prompts, outputs and luck all vary and the true lift is 0.3."""
    random, covered = np.random.default_rng(2), 0
    for world in range(400):
        prompts, outputs = random.normal(size=(1, 25)), random.normal(size=(25, 1))  # some are easy to match
        scores = 0.5 * prompts + 0.5 * outputs + 0.5 * random.normal(size=(25, 25)) + 0.3 * np.eye(25)
        low, high = adherence(scores, seed=world).interval
        covered += low < 0.3 < high
    assert 0.89 < covered / 400 < 0.98


def test_a_pair_drawn_twice_is_not_its_own_shuffle():
    """Where every output matches its own prompt and no other, every resample has the same lift."""
    assert adherence(np.eye(6)).interval == pytest.approx((1, 1))


def test_the_seed_decides_the_interval():
    scores = np.random.default_rng(0).random((20, 20))
    assert adherence(scores, 1) == adherence(scores, 1)
    assert adherence(scores, 1).interval != adherence(scores, 2).interval


# ---- what the songbook knows


def asked(songs) -> tuple:
    return [song.genre for song in songs], [song.emotion for song in songs], [song.themes for song in songs]


def test_songs_of_the_songbook_keep_to_their_prompts_as_far_as_they_are_aligned():
    for alignment, lowest, highest in ((1.0, 0.4, 1.0), (0.0, -0.2, 0.2)):
        songs = list(songbook(80, seed=4, alignment=alignment))
        for result in song_adherence(*asked(songs), [song.lyrics for song in songs]).values():
            assert lowest < result.lift < highest
            assert (result.interval[0] > 0) == (alignment == 1)


def test_the_genre_is_the_one_whose_words_are_used_most():
    outputs = ["my homies hustle in the hoodie, with a playlist", "hustle and a selfie", "", "xyzzy"]
    table = voice_match(["rap", "pop", "rock"], outputs, GENRES)
    np.testing.assert_array_equal(table, [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 0], [0, 0, 0]])
    assert voice_match(["sad"], ["teardrop in the graveyard"], EMOTIONS) == [[1]]


def test_themes_are_found_by_their_words():
    table = theme_overlap([("river", "letter"), ("story",)], ["the rivers of a letter", "river", "stories"])
    np.testing.assert_array_equal(table, [[1, 0], [0.5, 0], [0, 1]])


# ---- prompt information


def test_a_model_that_ignores_its_prompt_takes_nothing_from_it(random_model):
    """Without attention between tokens (values are zero) and places (rotary), a song's loss is its own."""
    model = random_model("qwen3")
    for block in model.h:
        torch.nn.init.zeros_(block.attn.c_proj.weight)
    result = prompt_information(model, pairs(), [0])
    # The first token of a song follows the prompt's last, which is the same in all.
    assert result.information == pytest.approx(0, abs=1e-5)
    assert result.none == pytest.approx(result.own, abs=1e-5)
    assert result.interval == pytest.approx((0, 0), abs=1e-5)


def pairs(n=12):
    random = np.random.default_rng(0)
    return [([0, *random.integers(1, 90, 4).tolist(), 0], random.integers(1, 90, 9 + i).tolist()) for i in range(n)]


def test_the_losses_are_those_of_single_passes(random_model):
    model: GPT = random_model("gpt2")
    result = prompt_information(model, pairs(), [0, 0], seed=5)

    def loss(context, song):
        ids = torch.tensor([[*context, *song]])
        targets = ids.clone()
        targets[:, : len(context)] = -100
        return model(ids[:, :-1], targets=targets[:, 1:])[0].item()

    tokens = sum(len(song) for _, song in pairs())
    assert result.tokens == tokens
    assert result.own == pytest.approx(sum(loss(context, song) for context, song in pairs()) / tokens, abs=1e-5)
    assert result.none == pytest.approx(sum(loss([0, 0], song) for _, song in pairs()) / tokens, abs=1e-5)
    assert result.information == pytest.approx(result.shuffled - result.own)
    assert result.interval[0] < result.information < result.interval[1]


def test_a_prompt_that_tells_the_song_is_worth_its_nats(random_model):
    """A model that says again what it read: under another's prompt the song is a surprise."""
    model = random_model("qwen3", n_layer=1)
    pairs = [([0, token, 0], [token] * 3) for token in range(1, 40)]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    ids = torch.tensor([[*context, *song] for context, song in pairs])
    targets = ids.clone()
    targets[:, :3] = -100
    for _ in range(60):
        total, count = model(ids[:, :-1], targets=targets[:, 1:])
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    result = prompt_information(model, pairs, [0, 0])
    assert result.information > 1
    assert 1 < result.interval[0] < result.information < result.interval[1]
    assert result.none - result.own < result.interval[0]  # a wrong prompt misleads more than none


def test_songs_that_do_not_fit_are_cut_alike_under_every_prompt(random_model):
    model = random_model(block_size=16)
    result = prompt_information(model, pairs(), [0])
    assert result.cut == sum(len(song) > 11 for _, song in pairs())  # 6 + 11 - 1 = 16 are read
    assert result.tokens == sum(min(11, len(song)) for _, song in pairs())
