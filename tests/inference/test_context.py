"""Streaming: pieces never split a character, and join to the full decoding."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from primegpt.inference.context import TextStream


class Pieces:
    """A tokenizer whose id i stands for the bytes `pieces[i]`."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def decode_bytes(self, ids: list[int]) -> bytes:
        return b"".join(self.pieces[id] for id in ids)


def streamed(pieces: list[bytes]) -> list[str]:
    text = TextStream(Pieces(pieces))
    return [text.push(id) for id in range(len(pieces))] + [text.flush()]


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


@given(st.text(), st.lists(st.integers(0, 60)))
def test_text_cut_anywhere_arrives_whole(text: str, cuts: list[int]) -> None:
    pieces = streamed(cut(text.encode(), cuts))
    assert "".join(pieces) == text
    assert pieces[-1] == ""  # valid text is complete before the flush


@given(st.lists(st.binary(max_size=5)))
def test_any_bytes_join_to_the_full_decoding(pieces: list[bytes]) -> None:
    assert "".join(streamed(pieces)) == b"".join(pieces).decode("utf-8", errors="replace")


def test_each_byte_of_emoji_and_chinese_waits_for_its_character() -> None:
    text = "日本 👩‍👩‍👧 é"
    pieces = streamed([bytes([byte]) for byte in text.encode()])
    assert [piece for piece in pieces if piece] == list(text)
    assert "\ufffd" not in "".join(pieces)


def test_an_unfinished_character_is_shown_at_the_end_and_the_stream_starts_afresh() -> None:
    text = TextStream(Pieces(["é".encode()[:1], b"a"]))
    assert (text.push(0), text.flush()) == ("", "\ufffd")
    assert (text.push(1), text.flush()) == ("a", "")


def first_stop(text: str, stops: list[str]) -> str:
    """`text` before its first stop string."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


@given(st.text("abc", max_size=40), st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=3))
def test_text_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    """Letter by letter: what comes out is never taken back, and nothing that is certain is held."""
    stream = TextStream(Pieces([letter.encode() for letter in text]), stops)
    out, seen = "", ""
    for id, letter in enumerate(text):
        out += stream.push(id)
        seen += letter
        if any(stop in seen for stop in stops):
            assert stream.stopped
            break
        longest = max(n for stop in stops for n in range(len(stop)) if seen.endswith(stop[:n]))
        assert out == seen[: len(seen) - longest]  # all but the beginning of a stop string
    out += stream.flush()
    assert out == min((first_stop(seen, [stop]) for stop in stops), key=len)


def test_a_stop_string_may_lie_across_tokens_or_inside_one() -> None:
    for cuts in ([3], [5], [3, 5], []):
        stream = TextStream(Pieces(cut(b"one STOP two", cuts)), ["STOP"])
        assert "".join(stream.push(id) for id in range(len(cuts) + 1)) + stream.flush() == "one "
    stream = TextStream(Pieces([b"one ST", b"EP"]), ["STOP"])
    assert [stream.push(0), stream.push(1), stream.flush()] == ["one ", "STEP", ""]
    stream = TextStream(Pieces(["日".encode()[:2], "日".encode()[2:], b"x"]), ["日x"])
    assert [stream.push(0), stream.push(1), stream.push(2), stream.stopped] == ["", "", "", True]
