"""Text that spells a special token is text: in training, in prepared data and in prompts, for every kind."""

import pytest

from primegpt import tokenizers
from primegpt.config import DataConfig, GenerateConfig, TokenizerConfig
from primegpt.data.preparing.prepare import prepare
from primegpt.inference.decoder import Decoder
from primegpt.tokenizers import store

# The control vocabulary of the song recipe, every kind's own tokens, and what libraries give a meaning to.
CONTROLS = {
    "control": ("<prompt>", "<song>", "</song>"),
    "genre": ("<genre_pop>", "<genre_rap>", "<genre_rock>", "<genre_rb>"),
    "emotion": ("<happy>", "<sad>", "<angry>", "<romantic>"),
    "structure": ("[intro]", "[verse]", "[chorus]", "[bridge]", "[outro]"),
}
SYSTEM = ["<PAD>", "<UNK>", "<BOS>", "<EOS>", "<|endoftext|>", "<unk>", "<s>", "</s>", "<0x0A>", "<0xE2>", "▁"]
SPELT = [*SYSTEM, *(name for names in CONTROLS.values() for name in names)]
CORPUS = "\n".join(f"{name} {name}{name} a{name} {name}b" for name in SPELT * 40)


@pytest.fixture(scope="module", params=store.KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def config(kind, request):
    """The configuration of each kind, small; files stand for what cannot be learnt."""
    if kind == "imported":
        folder = request.getfixturevalue("tmp_path_factory").mktemp("imported")
        for name, content in request.getfixturevalue("foreign_files")(CORPUS).items():
            (folder / name).write_bytes(content)
        return TokenizerConfig(path=str(folder), special_tokens=CONTROLS)
    if kind == "gpt2":
        return TokenizerConfig(path=str(request.getfixturevalue("shared_data") / "gpt2"), special_tokens=CONTROLS)
    return TokenizerConfig(kind=kind, vocab_size=500, special_tokens=CONTROLS)


@pytest.fixture(scope="module")
def tokenizer(config):
    if config.path:
        return tokenizers.load(config.path, config.special_tokens)
    return tokenizers.train(config.kind, [CORPUS], config.learnt_vocab_size, config.special_tokens)


def test_the_control_vocabulary_is_there_by_kind(tokenizer):
    own = {kind: names for kind, names in tokenizer.special_kinds.items() if kind != "system"}
    assert own == CONTROLS
    assert len({tokenizer.token_id(name) for names in CONTROLS.values() for name in names}) == 16


@pytest.mark.parametrize("name", SPELT)
def test_a_spelt_token_is_ordinary_text(tokenizer, name):
    for text in (name, f" {name}\n", f"x{name}y", name * 3, name[:-1] + name):
        for ids in (tokenizer.encode(text), tokenizer.encode_array(text).tolist(), tokenizer.encode_batch([text])[0]):
            assert tokenizer._special_ids.isdisjoint(ids)
            assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_prepared_data_has_end_of_text_ids_before_documents_and_no_other(config, tmp_path):
    paths = [tmp_path / f"{number}.txt" for number in range(4)]
    for path in paths:
        path.write_text(CORPUS + str(path.name), encoding="utf-8")
    corpus = prepare(DataConfig(sources=tuple(map(str, paths))), config)
    for shards, documents in ((corpus.train, 4), (corpus.val, 4)):  # of a few texts, the ends are held out
        special = [id for id in shards.slice(0, len(shards)).tolist() if id in corpus.tokenizer._special_ids]
        assert special == [corpus.tokenizer.eot_id] * documents
    assert corpus.tokenizer.special_kinds["structure"] == CONTROLS["structure"]
    corpus.close()


def test_a_prompt_has_no_special_id_but_the_first(tokenizer, random_model):
    decoder = Decoder(random_model(vocab_size=tokenizer.vocab_size), tokenizer)
    ids = decoder.encode("".join(SPELT), GenerateConfig(start_document=True))
    assert ids[0] == tokenizer.eot_id
    assert tokenizer._special_ids.isdisjoint(ids[1:])
