"""One small tokenizer of each kind, trained once, and what others make of its files."""

import json
import os
import random
from pathlib import Path

import pytest

from primegpt import tokenizers
from primegpt.tokenizers import splits, store
from primegpt.tokenizers.imported import Imported
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

CONTROLS = {"control": ["<song>", "</song>", "<prompt>"], "structure": ["[chorus]", "[verse]"]}


def make_corpus(words: int = 6000, seed: int = 0) -> str:
    """Text with the statistics that BPE feeds on: few frequent words, many rare ones, several scripts."""
    rng = random.Random(seed)
    stems = [
        "lo",
        "ve",
        "ri",
        "ver",
        "ing",
        "song",
        "the",
        "re",
        "é",
        "日本",
        "語",
        "при",
        "вет",
        "12",
        "7",
        "😀",
        "n't",
    ]
    lexicon = ["".join(rng.choices(stems, k=rng.randint(1, 4))) for _ in range(400)]
    weights = [1 / (rank + 1) for rank in range(400)]
    ends = rng.choices([" ", ", ", ".\n", "\n\n", "  ", "!\t", "'s "], [12, 2, 2, 1, 1, 1, 1], k=words)
    return "".join(word + end for word, end in zip(rng.choices(lexicon, weights, k=words), ends, strict=True))


@pytest.fixture(scope="session")
def corpus() -> str:
    return make_corpus()


@pytest.fixture(scope="session")
def char(corpus):
    return tokenizers.train("char", [corpus], special_tokens=CONTROLS)


@pytest.fixture(scope="session")
def bpe(corpus):
    return tokenizers.train("bpe", [corpus], 600, CONTROLS)


@pytest.fixture(scope="session")
def sentencepiece(corpus):
    return tokenizers.train("sentencepiece", [corpus], 600, CONTROLS)


def others(corpus: str) -> dict[str, bytes]:
    """A tokenizer of others' making: Llama 3's split, special tokens before and after the pieces, a chat template."""
    learner = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(splits.LLAMA3), "isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    learner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = ["<|begin_of_text|>", "<|end_of_text|>"]
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=names, show_progress=False)
    learner.train_from_iterator([corpus], trainer)
    learner.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    settings = {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "add_bos_token": True,
        "chat_template": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    }
    return {"tokenizer.json": learner.to_str().encode(), "tokenizer_config.json": json.dumps(settings).encode()}


@pytest.fixture(scope="session")
def imported(corpus):
    return Imported(others(corpus)).with_special_tokens(CONTROLS)


@pytest.fixture(scope="session")
def foreign_files():
    """A maker of another's files: text that they are learnt from -> name -> content."""
    return others


@pytest.fixture(scope="session")
def gpt2(shared_data):
    return tokenizers.load(shared_data / "gpt2", CONTROLS)


@pytest.fixture(scope="session", params=["char", "bpe", "sentencepiece"])
def tokenizer(request):
    """Each kind that is learnt, in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session", params=["char", "bpe"])
def json_tokenizer(request):
    """Each kind that is saved as tokenizer.json, in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def huggingface(tmp_path_factory):
    """The `tokenizers` library's reading of what we saved, told (as every caller must) that text is ordinary."""

    def read(tokenizer):
        folder = tmp_path_factory.mktemp(tokenizer.kind)
        store.save(tokenizer, folder)
        theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
        theirs.encode_special_tokens = True
        return theirs

    return read


@pytest.fixture(scope="session")
def shared_data() -> Path:
    root = Path(__file__).parents[2]
    folder = Path(os.environ.get("PRIMEGPT_SHARED_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the shared data is not here")
    return folder
