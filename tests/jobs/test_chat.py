"""What a chat keeps, and that nothing which cannot be kept ends it."""

import json
from pathlib import Path

import pytest

from primegpt import api
from primegpt.errors import UsageError


def test_a_song_is_saved_as_a_record_of_a_song_with_its_labels(run_on):
    chat = api.Chat(api.load(run_on("song")))
    chat.command("/genre rock")
    first = "".join(chat.answer("a song of rain"))
    chat.command("/genre off")
    second = "".join(chat.answer("a song of snow"))
    chat.command("/save songs.jsonl")
    assert list(map(json.loads, Path("songs.jsonl").read_text().splitlines())) == [
        {"prompt": "a song of rain", "genre": "rock", "lyrics": first.strip()},
        {"prompt": "a song of snow", "lyrics": second.strip()},
    ]


@pytest.mark.parametrize("name", ["~nobody-of-this-name/talk.txt", "a\0b.txt", f"{'long' * 80}.txt"])
def test_what_cannot_be_saved_does_not_end_the_chat(run_on, name):
    chat = api.Chat(api.load(run_on("chat")))
    "".join(chat.answer("12 + 7"))
    with pytest.raises(UsageError):
        chat.command(f"/save {name}")


def test_a_disk_that_refuses_does_not_end_the_chat(run_on, monkeypatch):
    chat = api.Chat(api.load(run_on("chat")))
    "".join(chat.answer("12 + 7"))
    for refuses, error in (("fsync", OSError(28, "No space left on device")), ("stat", PermissionError(13, "denied"))):
        with monkeypatch.context() as patch:
            patch.setattr(f"os.{refuses}", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
            with pytest.raises(UsageError, match=error.strerror):
                chat.command("/save talk.txt")


def test_a_slash_alone_is_no_command(run_on):
    chat = api.Chat(api.load(run_on("chat")))
    "".join(chat.answer("12 + 7"))
    with pytest.raises(UsageError, match="/ is not a command"):
        chat.command("/")
    assert chat.begun == 0
    chat.command("")
    assert chat.begun == 1
