"""A preparation that is killed at any moment ends, when it is started again, with the bytes of one that was not."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from primegpt.data.corpus import cache_folder

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(1500)]

SCRIPT = """if True:
    import sys
    from pathlib import Path
    from primegpt.config import DataConfig, TokenizerConfig
    from primegpt.data import build
    from primegpt.data.prepare import prepare
    build.CHECKPOINT_SECONDS, build.PIECE = 0.05, 50_000
    data = DataConfig(sources=(sys.argv[1],))
    corpus = prepare(data, TokenizerConfig(kind="bpe", vocab_size=600), cache=Path(sys.argv[2]), report=print)
    print(corpus.train.verify().fingerprint, corpus.val.verify().fingerprint)"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """16 MB of documents of all lengths."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 9))) for _ in range(3000)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(4000):
            text = " ".join(draw.choices(words, k=draw.randint(1, 1500)))
            file.write(json.dumps({"text": text}) + "\n")
    return path


def start(corpus: Path, cache: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, corpus, cache], stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_ten_random_kills(corpus, tmp_path):
    with start(corpus, tmp_path / "whole") as process:
        wait_for_shards(process, tmp_path / "whole")
        begun = time.monotonic()
        expected = process.communicate()[0].splitlines()[-1]
        longest = 0.9 * (time.monotonic() - begun)
    draw, went_on = random.Random(time.time_ns()), 0
    for trial in range(10):
        cache, output = tmp_path / f"cache{trial}", ""
        for _ in range(1 + trial % 3):  # killed once, twice or three times, unless it is done before
            with start(corpus, cache) as process:
                wait_for_shards(process, cache)
                time.sleep(draw.random() * longest)
                process.kill()
                output = process.stdout.read()
                if process.wait() == 0:
                    break
        else:
            output = start(corpus, cache).communicate()[0]
        assert output.splitlines()[-1] == expected
        went_on += "going on with the preparation" in output
        entries = [path for path in cache_folder(cache).iterdir() if path.is_dir()]
        assert [path.suffix for path in entries] == [""]
    assert went_on >= 5  # most were killed when there was something to go on with


def wait_for_shards(process: subprocess.Popen, cache: Path) -> None:
    """Until the first checkpoint, or the end."""
    while process.poll() is None and not list(cache.glob("data/*.partial/progress.json")):
        time.sleep(0.002)


def test_what_was_finished_is_not_encoded_again(corpus, tmp_path, monkeypatch):
    """The pieces of the second start, counted, are those behind the last checkpoint of the first."""
    from primegpt.config import DataConfig, TokenizerConfig
    from primegpt.data import build
    from primegpt.data.prepare import prepare

    monkeypatch.setattr(build, "PIECE", 200_000)
    monkeypatch.setattr(build, "CHECKPOINT_SECONDS", 0.0)
    encode, encoded, stop_at = build._Encoder.encode, [], 30

    def counting(self, piece):
        encoded.append(len(piece))
        if len(encoded) == stop_at:
            raise KeyboardInterrupt
        return encode(self, piece)

    monkeypatch.setattr(build._Encoder, "encode", counting)
    arguments = DataConfig(sources=(str(corpus),)), TokenizerConfig(kind="char")
    with pytest.raises(KeyboardInterrupt):
        prepare(*arguments, cache=tmp_path)
    (progress,) = tmp_path.glob("data/*.partial/progress.json")
    done = json.loads(progress.read_bytes())["pieces"]
    stop_at = 0
    encoded.clear()
    resumed, n_resumed = prepare(*arguments, cache=tmp_path), len(encoded)
    encoded.clear()
    whole, n_whole = prepare(*arguments, cache=tmp_path / "fresh"), len(encoded)
    assert 15 <= done < 30
    assert n_resumed == n_whole - done
    assert resumed.train.fingerprint == whole.train.fingerprint
