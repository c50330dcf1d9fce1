"""Preparing a text beside processes of the libraries that have its vocabulary."""

import json

import pytest

from primegpt.bench.tokenize import bench_tokenize, libraries
from primegpt.errors import ConfigError
from primegpt.tokenizers import splits, store
from primegpt.tokenizers.imported import Imported

TEXT = "the river runs under the bridge of stone\n"


def others(*steps: splits.Step) -> Imported:
    """Byte-level pairs of others, split by `steps`."""
    document = json.loads(store.train("bpe", [TEXT], 270)._files()["tokenizer.json"])
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*steps, level]}
    return Imported({"tokenizer.json": json.dumps(document).encode()})


@pytest.mark.reliability
def test_shards_beside_processes_of_the_library(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 200, encoding="utf-8")
    for kind, tokenizer in {
        "bpe": store.train("bpe", [TEXT], 270),
        "imported": others(*splits.BY_NAME["qwen2"]),
    }.items():
        store.save(tokenizer, tmp_path / kind)
        found = bench_tokenize(str(tmp_path / "text.txt"), str(tmp_path / kind), megabytes=0.05, turns=1)
        names = ["primegpt data prepare", *(["tokenizers"] if kind == "imported" else []), "tiktoken"]
        assert [result.name.removesuffix(" processes").lstrip("0123456789 ") for result in found.results] == names
        assert all(len(result.rates) == 1 and result.median > 0 for result in found.results)


def test_each_library_that_has_a_vocabulary_takes_part(spaced_tokenizer):
    pieces = store.train("sentencepiece", [TEXT], 290)
    assert list(libraries(pieces)) == list(libraries(Imported(pieces._files()))) == ["sentencepiece"]
    assert list(libraries(spaced_tokenizer)) == ["tokenizers"]
    assert list(libraries(others(*splits.BY_NAME["falcon"]))) == ["tokenizers"]
    assert list(libraries(others(*splits.BY_NAME["smollm"]))) == ["tokenizers", "tiktoken"]
    with pytest.raises(ConfigError, match="no library has a char tokenizer"):
        libraries(store.train("char", [TEXT]))
