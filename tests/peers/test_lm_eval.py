"""One task of each kind through lm-evaluation-harness, with no network: its figures are ours computed plainly."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from primegpt import api
from primegpt.errors import UsageError
from primegpt.model.gpt import GPT
from primegpt.tokenizers import store

pytest.importorskip("lm_eval")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

TEXT = "the cat sat on the mat and the dog ran to the door\n"
ENTRIES = [
    {"ctx": "the cat sat", "choices": ["on the mat", "dog", "to the door and ran"], "label": 0},
    {"ctx": "the dog ran", "choices": ["cat cat", "to the door", "mat"], "label": 1},
    {"ctx": "and the", "choices": ["mat mat mat mat", "dog", "door"], "label": 2},
]

CHOICE = """
task: local_choice
dataset_path: json
dataset_kwargs: {data_files: {validation: DATA}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{ctx}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
ROLLING = """
task: local_rolling
dataset_path: json
dataset_kwargs: {data_files: {validation: DATA}}
validation_split: validation
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{ctx}}"
metric_list:
  - {metric: bits_per_byte}
"""


@pytest.fixture
def tokenizer():
    return store.train("bpe", [TEXT * 30], 300)


@pytest.fixture
def model(random_model, tokenizer) -> GPT:
    return random_model(vocab_size=tokenizer.vocab_size)


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A maker of task files."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(entry) + "\n" for entry in ENTRIES), encoding="utf-8")

    def write(text: str) -> str:
        path = tmp_path / "tasks" / "task.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace("DATA", str(data)), encoding="utf-8")
        return str(path)

    return write


@torch.inference_mode()
def logprob(model, context: list[int], completion: list[int]) -> float:
    rows = model(torch.tensor([[*context, *completion[:-1]]]))[0, len(context) - 1 :].log_softmax(-1)
    return rows[range(len(completion)), completion].sum().item()


def test_a_multiple_choice_task(model, tokenizer, task):
    from primegpt.evaluation.harness import evaluate_harness

    results = evaluate_harness(model, tokenizer, [task(CHOICE)])["local_choice"]
    hits, normed = 0, 0
    for entry in ENTRIES:
        context = tokenizer.encode(entry["ctx"])
        sums = [logprob(model, context, tokenizer.encode(" " + choice)) for choice in entry["choices"]]
        means = [total / len(choice) for total, choice in zip(sums, entry["choices"], strict=True)]
        hits += sums.index(max(sums)) == entry["label"]
        normed += means.index(max(means)) == entry["label"]
    assert results["acc"] == pytest.approx(hits / 3)
    assert results["acc_norm"] == pytest.approx(normed / 3)


def test_a_rolling_task(model, tokenizer, task):
    from primegpt.evaluation.harness import evaluate_harness

    results = evaluate_harness(model, tokenizer, [task(ROLLING)], limit=2)["local_rolling"]
    texts = [entry["ctx"] for entry in ENTRIES[:2]]
    nats = -sum(logprob(model, [tokenizer.eot_id], tokenizer.encode(text)) for text in texts)
    assert results["bits_per_byte"] == pytest.approx(nats / math.log(2) / sum(map(len, texts)), rel=1e-5)


def test_texts_longer_than_a_block_are_scored_in_windows(random_model, tokenizer):
    from primegpt.evaluation.harness import HarnessModel

    model = random_model(vocab_size=tokenizer.vocab_size, block_size=8)
    ids = tokenizer.encode(TEXT * 2)
    (total,) = HarnessModel(model, tokenizer).loglikelihood_rolling([SimpleNamespace(args=(TEXT * 2,))])
    # The harness: whole blocks, then a last window of full length of which only the new tokens count.
    ends = [*range(8, len(ids), 8), len(ids)]
    expected, begun = 0.0, 0
    for end in ends:
        line = [tokenizer.eot_id, *ids][max(0, end - 8) : end]
        expected += logprob(model, line[: len(line) - (end - begun) + 1], ids[begun:end])
        begun = end
    assert total == pytest.approx(expected, abs=1e-3)


def test_generation_stops_where_the_task_says(model, tokenizer):
    from primegpt.config import GenerateConfig
    from primegpt.evaluation.harness import HarnessModel
    from primegpt.inference.decoder import Decoder

    settings = GenerateConfig(temperature=0.0, max_new_tokens=20)
    (whole,) = Decoder(model, tokenizer).generate([tokenizer.encode("the cat")], settings)[0]
    stop = whole.text[5:7]
    requests = [
        SimpleNamespace(args=("the cat", {"until": [stop, "\n\n\n"], "max_gen_toks": 20})),
        SimpleNamespace(args=("the cat", {"until": [], "max_gen_toks": 20, "do_sample": False, "temperature": 1.0})),
        SimpleNamespace(args=("", {"until": "zzz", "max_gen_toks": 3})),
    ]
    first, second, third = HarnessModel(model, tokenizer).generate_until(requests)
    assert first == whole.text[: whole.text.index(stop)]
    assert second == whole.text
    assert (
        third == Decoder(model, tokenizer).generate([""], settings.model_copy(update={"max_new_tokens": 3}))[0][0].text
    )


def test_the_harness_itself_says_the_same_of_an_exported_prime(random_model, save_run, tokenizer, tmp_path):
    """Through its class for Transformers, which opens the folder as NanoChat."""
    from lm_eval.models.huggingface import HFLM

    from primegpt.evaluation.harness import HarnessModel

    model = random_model("prime", vocab_size=tokenizer.vocab_size)
    folder = api.export(save_run(model, tokenizer), tmp_path / "hf", say=lambda line: None)
    pairs = [(entry["ctx"], f" {choice}") for entry in ENTRIES for choice in entry["choices"]]
    requests = [SimpleNamespace(args=pair) for pair in pairs]
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=2).loglikelihood(requests)
    ours = HarnessModel(model, tokenizer).loglikelihood(requests)
    assert [greedy for _, greedy in theirs] == [greedy for _, greedy in ours]
    assert [total for total, _ in theirs] == pytest.approx([total for total, _ in ours], abs=1e-3)


def test_an_unknown_task_is_one_line(model, tokenizer):
    from primegpt.evaluation.harness import evaluate_harness

    with pytest.raises(UsageError, match="no task 'hellaswagg'"):
        evaluate_harness(model, tokenizer, ["hellaswagg"])
    with pytest.raises(UsageError, match=r"nothing\.yaml"):
        evaluate_harness(model, tokenizer, ["nothing.yaml"])
