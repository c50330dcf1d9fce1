"""A preparation that is killed at any moment ends, when it is started again, with the bytes of one that was not."""

import json
import random
import signal
import subprocess
import sys
import time
from glob import glob
from pathlib import Path

import pytest

from primegpt.data.preparing.corpus import cache_folder
from primegpt.tokenizers import store

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(1500)]

SCRIPT = """if True:
    import sys
    from pathlib import Path
    from primegpt.config import DataConfig, TokenizerConfig
    from primegpt.data.preparing import blocks, build
    from primegpt.data.preparing.prepare import Unfinished, prepare_part
    blocks.BLOCK, build.PIECE = 500_000, 50_000
    source, cache, part = sys.argv[1:]
    data, tokenizer = DataConfig(sources=(source,)), TokenizerConfig(path=source + ".tokenizer")
    corpus = prepare_part(data, tokenizer, blocks.parse_part(part), cache=Path(cache), say=print)
    if not isinstance(corpus, Unfinished):
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
    store.save(store.train("bpe", [" ".join(words)], 600), f"{path}.tokenizer")
    return path


def start(corpus: Path, cache: Path, part: str = "1/1") -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, corpus, cache, part], stdout=subprocess.PIPE, text=True)


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
    """Until the first block is finished, or all is (Path.glob raises where a folder goes meanwhile, glob does not)."""
    while process.poll() is None and not glob(f"{cache}/data/*.partial/blocks/*.json"):
        time.sleep(0.002)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_parts_that_are_killed_and_started_again(corpus, tmp_path):
    """Three parts at once, each killed at random until it is through: the bytes of one preparation."""
    expected = start(corpus, tmp_path / "whole").communicate()[0].splitlines()[-1]
    draw, waiting, kills = random.Random(time.time_ns()), [1, 2, 3], 0
    while waiting:
        processes = {index: start(corpus, tmp_path / "parts", f"{index}/3") for index in waiting}
        wait_for_shards(processes[waiting[0]], tmp_path / "parts")
        time.sleep(draw.random() if kills else 0)  # at once the first time, or a busy machine would let all go through
        for process in processes.values():
            if kills < 9:
                process.kill()
            process.communicate()
        kills += sum(process.returncode != 0 for process in processes.values())
        waiting = [index for index, process in processes.items() if process.returncode]
    assert kills >= 3
    assert start(corpus, tmp_path / "parts").communicate()[0].splitlines()[-1] == expected
    entries = [path for path in cache_folder(tmp_path / "parts").iterdir() if path.is_dir()]
    assert [path.suffix for path in entries] == [""]


def test_what_was_finished_is_not_encoded_again(corpus, tmp_path, monkeypatch):
    """The pieces of the second start, counted, are those behind the last block that the first one finished."""
    from primegpt.config import DataConfig, TokenizerConfig
    from primegpt.data.preparing import blocks, build
    from primegpt.data.preparing.prepare import prepare

    monkeypatch.setattr(build, "PIECE", 200_000)
    monkeypatch.setattr(blocks, "BLOCK", 1_000_000)
    encode, encoded, stop_at = build._Encoder.encode, [], 50

    def counting(self, piece):
        encoded.append(piece.block)
        if len(encoded) == stop_at:
            raise KeyboardInterrupt
        return encode(self, piece)

    monkeypatch.setattr(build._Encoder, "encode", counting)
    arguments = DataConfig(sources=(str(corpus),)), TokenizerConfig(kind="char")
    with pytest.raises(KeyboardInterrupt):
        prepare(*arguments, cache=tmp_path)
    done = len(list(tmp_path.glob("data/*.partial/blocks/*.json")))
    stop_at = 0
    encoded.clear()
    resumed, of_resumed = prepare(*arguments, cache=tmp_path), sorted(encoded)
    encoded.clear()
    whole, of_whole = prepare(*arguments, cache=tmp_path / "fresh"), sorted(encoded)
    assert 4 <= done <= 8
    assert of_resumed == [block for block in of_whole if block >= done]
    assert resumed.train.fingerprint == whole.train.fingerprint
