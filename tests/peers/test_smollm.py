"""A model of SmolLM2-135M's size with a real vocabulary, tuned on chats: it answers alike wherever it is run."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from primegpt import api, tokenizers
from primegpt.inference.run import Run

transformers = pytest.importorskip("transformers")
pytestmark = [  # a peer's warnings are its own
    pytest.mark.peers,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),
]

SIZES = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "initializer_range": 0.041666666666666664,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
}  # fmt: skip
LICENCE = b"Permission is hereby granted \xff to whoever asks.\r\n"
CHATS = [
    [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "What ran under\nthe bridge? "},
        {
            "role": "assistant",
            "content": " The river ran under the bridge of stone, and it's 1234 years that it ran — só.",
        },
        {"role": "user", "content": "and then…"},
        {"role": "assistant", "content": "Nothing more."},
    ],
    [
        {"role": "user", "content": "def f(x): what does it return?"},
        {"role": "assistant", "content": "It returns the square of x:\n\n    return x ** 2\n"},
    ],
]
ASKED = [CHATS[0][:2], CHATS[0][:4], CHATS[1][:1], [{"role": "user", "content": "何? <b> & c"}]]
ANSWER = 40  # tokens
# Whether by adapters, and the rate: high, so that few steps have something to show.
TUNINGS = {"full": (False, 1e-3), "LoRA": (True, 1e-2)}


def quiet(message: str) -> None:
    pass


@pytest.fixture(scope="module")
def theirs(vocabularies, tmp_path_factory) -> Path:
    """A folder as its makers publish it, but for the weights, which are random; split as SmolLM2's, as many ids."""
    folder = tmp_path_factory.mktemp("theirs")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**SIZES)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer = tokenizers.load(vocabularies / "ggml-vocab-starcoder.gguf")
    assert tokenizer.vocab_size == SIZES["vocab_size"]
    for name, content in tokenizer.files.items():
        (folder / name).write_bytes(content)
    (folder / "LICENSE").write_bytes(LICENCE)
    return folder


@pytest.fixture(scope="module", params=TUNINGS)
def tuned(request, theirs, tmp_path_factory) -> Run:
    lora, rate = TUNINGS[request.param]
    folder = tmp_path_factory.mktemp("tuned")
    lines = [json.dumps({"messages": chat}) for chat in CHATS * 4]
    (folder / "chats.jsonl").write_text("\n".join(lines), encoding="utf-8")
    train = {"max_steps": 24, "batch_size": 2, "learning_rate": rate, "eval_interval": 24, "precision": "fp32"}
    more = {"warmup_steps": 2, "device": "cpu", "threads": 1, "sample_interval": 24}
    settings = {"data": {"template": "chat"}, "train": train | more}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIMEGPT_CACHE", str(folder / "cache"))
        return api.finetune(theirs, folder / "chats.jsonl", lora=lora, out=folder / "run", settings=settings, say=quiet)


@pytest.fixture(scope="module")
def answers(tuned) -> list[list[int]]:
    """Our greedy answer to each conversation."""
    asked = [tuned.conversation(talk) for talk in ASKED]
    settings = {"temperature": 0.0, "max_new_tokens": ANSWER, "precision": "fp32"}
    return [each[0].ids for each in tuned.complete_all(asked, **settings)]


def never(run: Run) -> list[int]:
    """What ours never writes: where a turn begins."""
    return [run.tokenizer.token_id(name) for name in ("<system>", "<user>", "<assistant>")]


TIE = 1e-3  # between two logits: less is a matter of the order in which a processor adds


def assert_same(run: Run, asked: list[int], ours: list[int], theirs: list[int]) -> None:
    """That `theirs` begins with `ours`; where they part, the two ids were equally likely."""
    assert len(theirs) >= len(ours)
    at = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if at is not None:
        with torch.no_grad():
            logits = run.model(torch.tensor([[*asked, *ours[:at]]]))[0, -1]  # (V,)
        assert abs(float(logits[ours[at]] - logits[theirs[at]])) < TIE, f"they part at {at}"


def test_it_has_learnt_to_answer(tuned, answers):
    losses = [line["val/loss"] for line in tuned.metrics if "val/loss" in line]
    print(f"loss {losses[0]:.2f}, then {losses[-1]:.2f}; {[tuned.tokenizer.decode(ids) for ids in answers]}")
    assert losses[-1] < 0.5 * losses[0]
    assert "bridge of stone" in tuned.tokenizer.decode(answers[0])


def test_transformers_answers_the_same(tuned, answers, tmp_path):
    folder = api.export(tuned.folder.path, tmp_path / "hf", say=quiet)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    settings = {"do_sample": False, "max_new_tokens": ANSWER, "suppress_tokens": never(tuned)}
    for talk, ours in zip(ASKED, answers, strict=True):
        ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert ids == tuned.conversation(talk)
        written = model.generate(torch.tensor([ids]), **settings)[0, len(ids) :].tolist()
        assert_same(tuned, ids, ours, written)
        if written[: len(ours)] == ours:
            assert len(ours) == ANSWER or written[len(ours)] in model.generation_config.eos_token_id


def test_llama_cpp_answers_the_same(tuned, answers, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    path = api.export(tuned.folder.path, tmp_path / "m.gguf", to="gguf", dtype="f32", say=quiet)
    keep = llama_cpp.GGML_TYPE_F32  # of keys and values
    llama = llama_cpp.Llama(str(path), n_ctx=256, type_k=keep, type_v=keep, flash_attn=False, verbose=False)
    asked = {"temperature": 0.0, "max_tokens": ANSWER + 1, "repeat_penalty": 1.0}  # the last one is not kept
    asked["logit_bias"] = dict.fromkeys(never(tuned), -1e9)
    for talk, ours in zip(ASKED, answers, strict=True):
        llama.reset()
        llama.create_chat_completion(talk, **asked)
        conversation = tuned.conversation(talk)
        seen = llama._input_ids.tolist()
        assert seen[: len(conversation)] == conversation
        assert_same(tuned, conversation, ours, seen[len(conversation) :])


def weights_of(folder: Path) -> Mapping[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_what_was_not_tuned_is_the_same_to_the_byte(tuned, theirs, tmp_path):
    folder, base = tmp_path / "hf", tmp_path / "base"
    api.export(tuned.folder.path, folder, say=quiet)
    api.export(tuned.folder.base_dir, base, say=quiet)
    assert (folder / "LICENSE").read_bytes() == LICENCE
    before, after = (json.loads((at / "tokenizer.json").read_bytes()) for at in (theirs, folder))
    new = after.pop("added_tokens")[len(before["added_tokens"]) :]
    assert [token["id"] for token in new] == [49152, 49153, 49154, 49155]
    assert after == {key: value for key, value in before.items() if key != "added_tokens"}
    original, kept, tuned_weights = weights_of(theirs), weights_of(base), weights_of(folder)
    assert original.keys() == kept.keys() == tuned_weights.keys()
    for name, weight in original.items():
        assert torch.equal(kept[name], weight), name
        alone = tuned.config.lora.rank and not name.endswith("proj.weight")
        same = torch.equal(tuned_weights[name][: len(weight)], weight)
        assert same == bool(alone), name
    for name in ("tokenizer.json", "tokenizer_config.json", "LICENSE"):
        assert (base / name).read_bytes() == (theirs / name).read_bytes()
