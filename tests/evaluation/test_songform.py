"""Measures of form, on hand-made songs whose answers are known, and on the songbook."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primegpt.data.songbook import songbook
from primegpt.data.verse import rhyme_families
from primegpt.evaluation.songform import (
    copied_ngram_share,
    distinct_ngram_share,
    parse_sections,
    rhymes,
    rhyming_pair_share,
    shuffled_rhyming_pair_share,
    valid_section_order,
)

VERSE = "[verse]\nI walk in the rain\nI think of you\nI wait for the train\nI feel so blue"
CHORUS = "[chorus]\nI want to stay\nI want to play\nI hear the moon\nI hear a tune"
TEXTS = [each.text for each in songbook(400, seed=8)]


# ---- sections


def test_parse_sections_reads_headers_of_every_style_and_leaves_the_prompt_out():
    text = "a sad song\n\n[Intro]\nOh\n\n[Verse 1: Ann]\n one \ntwo\n[chorus]\n\n[hook]\nthree"
    assert parse_sections(text) == [("intro", ("Oh",)), ("verse", ("one", "two")), ("chorus", ()), ("hook", ("three",))]


def test_parse_sections_of_a_text_without_headers_is_empty():
    assert parse_sections("just a line\nand another") == []


def song_of(names: str) -> str:
    return "\n\n".join(f"[{name}]\nA line\nAnother" for name in names.split())


@pytest.mark.parametrize(
    "names",
    [
        "verse chorus verse chorus",
        "intro verse chorus verse chorus outro",
        "verse chorus verse chorus bridge chorus",
        "intro verse chorus verse chorus bridge chorus outro",
    ],
)
def test_orders_of_the_songbook_are_valid(names: str):
    assert valid_section_order(song_of(names))


@pytest.mark.parametrize(
    "names",
    [
        "",
        "verse",
        "verse chorus",
        "chorus verse chorus verse",
        "verse verse chorus chorus",
        "verse chorus verse chorus bridge",
        "verse chorus bridge chorus verse chorus",
        "verse chorus verse chorus intro",
        "outro verse chorus verse chorus",
        "verse chorus verse chorus solo",
        "verse chorus verse chorus verse chorus verse chorus",
    ],
)
def test_other_orders_are_not(names: str):
    assert not valid_section_order(song_of(names))


def test_an_empty_section_is_not_valid():
    text = song_of("verse chorus verse chorus")
    assert not valid_section_order(text.replace("[chorus]\nA line\nAnother", "[chorus]", 1))


def test_every_song_of_the_songbook_is_in_order():
    assert all(map(valid_section_order, TEXTS))


# ---- rhyme


@pytest.mark.parametrize(
    ("word_a", "word_b"),
    [("rain", "train"), ("Rain,", "plain!"), ("sky", "goodbye"), ("home alone", "on the phone"),  # by family
     ("spoon", "noodle moon"), ("trading", "fading"), ("letter", "better"), ("cat", "hat"), ("nation", "station")],
)  # fmt: skip
def test_words_that_rhyme(word_a: str, word_b: str):
    assert rhymes(word_a, word_b)
    assert rhymes(word_b, word_a)


@pytest.mark.parametrize(
    ("word_a", "word_b"),
    [("rain", "rain"), ("Rain", "rain!"), ("rain", "night"), ("love", "move on"), ("running", "falling"),
     ("table", "simple"), ("quickly", "slowly"), ("", "rain"), ("...", "...")],
)  # fmt: skip
def test_words_that_do_not(word_a: str, word_b: str):
    assert not rhymes(word_a, word_b)
    assert not rhymes(word_b, word_a)


def test_words_of_two_families_do_not_rhyme_however_they_are_spelt():
    families = {word: number for number, family in enumerate(rhyme_families()) for word in family}
    for word_a, word_b in [("home", "some"), ("now", "know"), ("gone", "stone"), ("own", "town"), ("heart", "hear")]:
        if word_a in families and word_b in families:
            assert rhymes(word_a, word_b) == (families[word_a] == families[word_b])
    assert not rhymes("own", "town")


def test_rhyming_pair_share_counts_pairs_one_and_two_apart():
    assert rhyming_pair_share(VERSE) == 2 / 5  # ABAB
    assert rhyming_pair_share(CHORUS) == 2 / 5  # AABB
    assert rhyming_pair_share("[verse]\nIn the rain\nThe train\nIn vain") == 1.0  # AAA: 2 + 1 pairs
    assert rhyming_pair_share("[verse]\nIn the rain") == 0.0
    assert rhyming_pair_share("no sections") == 0.0


def test_lines_of_different_sections_are_no_pair():
    assert rhyming_pair_share("[verse]\nIn the rain\n[chorus]\nOn the train") == 0.0


def test_lines_that_end_in_the_same_word_do_not_rhyme():
    assert rhyming_pair_share("[verse]\nIn the rain\nOh, the rain\nIn the rain") == 0.0


def test_a_repeated_chorus_counts_once():
    once = f"{VERSE}\n\n{CHORUS}"
    flat = "[verse]\nNothing new\nSome letters\nA table\nIn May"
    assert rhyming_pair_share(f"{flat}\n\n{CHORUS}\n\n{CHORUS}\n\n{CHORUS}") == 2 / 10
    assert rhyming_pair_share([flat, once, once]) == 8 / 25  # but two songs are two songs


def test_the_songbook_rhymes_and_its_shuffled_lines_do_not():
    share, shuffled = rhyming_pair_share(TEXTS), shuffled_rhyming_pair_share(TEXTS, seed=0)
    assert share > 0.35
    assert share > 8 * shuffled > 0


def test_shuffling_keeps_the_lines_and_depends_on_the_seed_alone():
    shares = [shuffled_rhyming_pair_share(TEXTS, seed) for seed in (0, 0, 1)]
    assert shares[0] == shares[1] != shares[2]
    every_line_rhymes = "[verse]\nIn the rain\nOn the train\nDown the lane\nIn vain"
    assert rhyming_pair_share(every_line_rhymes) == shuffled_rhyming_pair_share(every_line_rhymes) == 1.0


def test_broken_songs_score_low():
    """Lines shuffled within each song, so that its own rhymes are all still there somewhere; and lines cut short."""
    draw = random.Random(0)
    shuffled, cut = [], []
    for text in TEXTS:
        lines = [line for line in text.splitlines() if line and not line.startswith("[")]
        draw.shuffle(lines)
        shuffled.append("[verse]\n" + "\n".join(lines))
        cut.append("\n".join(line if line.startswith("[") else line.rsplit(" ", 1)[0] for line in text.splitlines()))
    whole = rhyming_pair_share(TEXTS)
    assert rhyming_pair_share(shuffled) < whole / 2  # a song has two sounds
    assert rhyming_pair_share(cut) < whole / 5
    assert not any(map(valid_section_order, shuffled))


# ---- copying

word_lists = st.lists(st.sampled_from(["a", "b", "c"]), max_size=12)


@given(st.lists(word_lists, max_size=4), st.lists(word_lists, max_size=4), st.integers(1, 4))
def test_copied_ngram_share_against_brute_force(texts: list[list[str]], training: list[list[str]], n: int):
    def ngrams(text: list[str]) -> set[str]:
        return {" ".join(text[start : start + n]) for start in range(len(text) - n + 1)}

    everywhere = [ngram for text in training for ngram in ngrams(text)]
    verdicts = [ngram in everywhere for text in texts for ngram in ngrams(text)]
    expected = sum(verdicts) / len(verdicts) if verdicts else 0.0
    assert copied_ngram_share(map(" ".join, texts), map(" ".join, training), n) == expected


def test_copying_is_judged_by_words_not_by_case_or_punctuation():
    assert copied_ngram_share("Oh, don't go; stay!", ["[verse]\noh DON'T go\nstay"], n=4) == 1.0
    assert copied_ngram_share("one two three", ["one two", "two three"], n=3) == 0.0  # not across texts
    assert copied_ngram_share("one two", ["one two"], n=3) == 0.0


def test_a_text_copied_from_training_is_found_out_and_a_fresh_songbook_is_not():
    training = [each.text for each in songbook(1000, seed=0)]
    fresh = [each.text for each in songbook(300, seed=1)]
    assert copied_ngram_share(training[:20], training) == 1.0
    assert copied_ngram_share(fresh, training) < 0.001
    assert 0.1 < copied_ngram_share(fresh, training, n=4) < 0.6  # the same language all the same


def test_distinct_ngram_share_counts_over_all_texts():
    assert distinct_ngram_share(["a b c d e", "a b c d f"], n=4) == 3 / 4  # abcd twice, bcde, bcdf
    assert distinct_ngram_share(["la la la la la la"], n=4) == 1 / 3
    assert distinct_ngram_share(["too short"], n=4) == 0
