"""Another's tokenizer in a GGUF file: read back, by whichever way, it gives the ids that it gives here."""

import json
import random

import pytest
from gguf import GGUFReader

from primegpt import api, tokenizers
from primegpt.errors import UsageError
from primegpt.interop.gguf_imported import described
from primegpt.tokenizers import splits
from primegpt.tokenizers.imported import Imported
from primegpt.tokenizers.sentencepiece_files import Model, Piece
from primegpt.tokenizers.sentencepiece_model import BYTE, BYTE_PIECES, CONTROL, NORMAL, UNKNOWN
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

CORPUS = "the river ran under a bridge of stone — and the song's 12345 words went on, DON'T stop; 日本語 мир\r\n\n" * 20
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}"
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def quiet(message: str) -> None:
    pass


def byte_level(name: str) -> dict[str, bytes]:
    """Files of a tokenizer with the split of that name in llama.cpp."""
    learner = Tokenizer(models.BPE())
    alphabet, level = pre_tokenizers.ByteLevel.alphabet(), pre_tokenizers.ByteLevel(False, use_regex=False)
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(splits.QWEN2), "isolated"), level])
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=["<|end|>"])
    learner.train_from_iterator([CORPUS], trainer)
    learner.add_special_tokens(["<|im_start|>"])
    learner.add_tokens(["<tool>"])
    document = json.loads(learner.to_str())
    steps = [*splits.BY_NAME[name], {**LEVEL, "use_regex": False}]
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    document["model"]["ignore_merges"] = name in splits.IGNORE_MERGES
    settings = {"eos_token": "<|end|>", "chat_template": TEMPLATE, "add_bos_token": False}
    return {
        "tokenizer.json": json.dumps(document).encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }


def sentencepiece() -> dict[str, bytes]:
    """Files of a SentencePiece model as Llama 2 has it."""
    words = ["▁", *"theriv", "▁t", "he", "▁the", "ri", "ver", "ve", "er", "▁ri", "▁river"]
    pieces = [Piece("<unk>", 0.0, UNKNOWN), Piece("<s>", 0.0, CONTROL), Piece("</s>", 0.0, CONTROL)]
    pieces += [Piece(name, 0.0, BYTE) for name in BYTE_PIECES]
    pieces += [Piece(word, -float(rank), NORMAL) for rank, word in enumerate(reversed(words))]
    return {"tokenizer.model": Model(pieces).content()}


def texts() -> list[str]:
    rng = random.Random(0)
    letters = [*"the river 12'sS \n\t▁é日<>|", "<|end|>", "<tool>", "DON'T", "\r\n", "  "]
    return [CORPUS, "", *("".join(rng.choices(letters, k=rng.randrange(1, 40))) for _ in range(300))]


def there_and_back(tokenizer: Imported, random_model, save_run, tmp_path) -> Imported:
    """What a GGUF file that was exported with `tokenizer` holds, as an import reads it."""
    run = save_run(random_model(vocab_size=tokenizer.vocab_size, n_layer=1), tokenizer)
    path = api.export(run, tmp_path / "m.gguf", to="gguf", say=quiet)
    back = api.load(api.import_model(path, tmp_path / "back", say=quiet), device="cpu").tokenizer
    assert isinstance(back, Imported)
    assert tokenizers.load(path).encode(CORPUS) == back.encode(CORPUS)
    return back


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "smollm", "deepseek-llm", "tekken"])
def test_byte_level_tokenizers_of_others_come_back_with_the_same_ids(name, random_model, save_run, tmp_path):
    tokenizer = Imported(byte_level(name)).with_special_tokens({"control": ["<song>"]})
    assert splits.BY_NAME[described(tokenizer).pre] == splits.BY_NAME[name]
    back = there_and_back(tokenizer, random_model, save_run, tmp_path)
    for text in texts():
        assert back.encode(text) == tokenizer.encode(text), text
    assert back.special_tokens == tokenizer.special_tokens
    assert (back.eot_id, back.adds_bos, back.chat_template) == (tokenizer.eot_id, False, TEMPLATE)


def test_sentencepiece_of_others_comes_back_with_the_same_ids(random_model, save_run, tmp_path):
    tokenizer = Imported(sentencepiece()).with_special_tokens({"control": ["<song>"]})
    back = there_and_back(tokenizer, random_model, save_run, tmp_path)
    for text in texts():
        assert back.encode(text) == tokenizer.encode(text), text
    assert back.special_tokens == tokenizer.special_tokens
    assert (back.eot_id, back.bos_id, back.adds_bos) == (2, 1, True)


def test_sentencepiece_in_a_tokenizer_json_comes_back_with_the_same_ids(random_model, save_run, tmp_path):
    """Merges in the order of scores, as they are made of one: llama.cpp's own order is that of scores."""
    model = Imported(sentencepiece())
    names = [piece.name for piece in model.vocabulary.model.pieces]
    known = {name: rank for rank, name in enumerate(names)}
    merges = [
        [name[:at], name[at:]]
        for name in sorted(names[259:], key=known.__getitem__)
        for at in range(1, len(name))
        if name[:at] in known and name[at:] in known
    ]
    added = [{"id": id, "content": name, "special": True} for id, name in enumerate(names[:3])]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    document = {
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]},
        "model": {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "vocab": known, "merges": merges},
    }
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    files = {"tokenizer.json": document, "tokenizer_config.json": settings}
    tokenizer = Imported({name: json.dumps(content).encode() for name, content in files.items()})
    back = there_and_back(tokenizer, random_model, save_run, tmp_path)
    for text in texts():
        text = text.replace("▁", "")
        assert back.encode(text) == tokenizer.encode(text) == model.encode(text), text


def test_what_llama_cpp_has_no_like_of_is_refused_with_what_works():
    files = byte_level("qwen2")
    document = json.loads(files["tokenizer.json"])

    def refused(reason: str, **changes: object) -> None:
        changed = {**files, "tokenizer.json": json.dumps({**document, **changes}).encode()}
        with pytest.raises(UsageError, match=reason) as caught:
            described(Imported(changed))
        assert "--to hf" in str(caught.value)

    level = document["pre_tokenizer"]["pretokenizers"][-1]
    refused("split has no name", pre_tokenizer={"type": "Sequence", "pretokenizers": [splits.split(r"\p{L}+"), level]})
    refused("normalizes text by 'NFKC'", normalizer={"type": "NFKC"})
    refused(
        "puts a space before", added_tokens=[], pre_tokenizer={**level, "use_regex": True, "add_prefix_space": True}
    )
    refused("white space", added_tokens=[{**token, "lstrip": True} for token in document["added_tokens"]])
    whole = {**document["model"], "ignore_merges": True}
    refused("split has no name", model=whole)


def test_the_library_reads_what_is_written(random_model, save_run, tmp_path):
    tokenizer = Imported(byte_level("smollm"))
    run = save_run(random_model(vocab_size=tokenizer.vocab_size, n_layer=1), tokenizer)
    reader = GGUFReader(api.export(run, tmp_path / "m.gguf", to="gguf", say=quiet))
    found = {name: field.contents() for name, field in reader.fields.items()}
    assert found["tokenizer.ggml.pre"] == "smollm"
    assert found["tokenizer.chat_template"] == TEMPLATE
    for name, kind in (("<|end|>", 3), ("<|im_start|>", 3), ("<tool>", 4), ("Ġthe", 1)):
        assert found["tokenizer.ggml.token_type"][found["tokenizer.ggml.tokens"].index(name)] == kind
