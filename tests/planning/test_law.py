"""The network for a text and a time: by brute force over the law, by the sizes that networks really have."""

import itertools

import pytest

from primegpt.config import TOKENIZER_KINDS, TokenizerConfig, resolve
from primegpt.errors import ConfigError, DataError
from primegpt.jobs.outlook import BUDGETS, outlook
from primegpt.model.size import block_matrix_parameters, flops_per_token, parameter_count
from primegpt.planning import passes
from primegpt.planning.law import best, missing, tokens_in, worth
from primegpt.planning.recipe import NETWORKS, TextFacts, guessed, network_for, tokenizer_for

RATE, CHARACTERS = 4e11, TOKENIZER_KINDS["char"].assumed


def facts_of(megabytes: float) -> TextFacts:
    size = int(1e6 * megabytes)
    return guessed(size, TokenizerConfig(**tokenizer_for(size)))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_has_the_parameters_and_costs_that_the_law_counts(network):
    sizes = network._asdict()
    sizes.pop("batch_size")
    config = resolve({"model": {"preset": "prime", **sizes, "vocab_size": CHARACTERS}}).model
    assert network.in_blocks == block_matrix_parameters(config)
    assert network.parameters(CHARACTERS) == pytest.approx(parameter_count(config), rel=0.04)
    assert network.flops(CHARACTERS) == pytest.approx(flops_per_token(config, network.block_size), rel=0.04)


def test_further_passes_are_worth_less_and_less():
    text = 1_000_000
    steps = [worth(passes * text, text) for passes in (0.5, 1, 2, 3, 4, 100, 300)]
    assert steps[:2] == [0.5 * text, text]
    gains = [after - before for before, after in itertools.pairwise(steps[1:5])]
    assert all(text > before > after > 0 for before, after in itertools.pairwise(gains))
    assert steps[-1] == pytest.approx(steps[-2], rel=1e-3)


@pytest.mark.parametrize("megabytes", [0.02, 0.07, 0.3, 1.1, 5, 100])
@pytest.mark.parametrize(("device", "rate"), [("cpu", 3e10), ("cpu", RATE), ("cpu", 4e12), ("cuda", 6e14)])
def test_more_time_is_never_expected_to_be_worse(megabytes, device, rate):
    """And the network does not shrink with more time."""
    facts = facts_of(megabytes)
    expected, sizes = [], []
    for seconds in [6 * 2**power for power in range(14)]:
        network = network_for(facts, seconds, rate, device)
        tokens = tokens_in(network, seconds, rate, device, facts.vocab_size)
        expected.append(missing(network.in_blocks, tokens, facts.distinct))
        sizes.append(network.in_blocks)
    assert expected == sorted(expected, reverse=True)
    assert sizes == sorted(sizes)
    assert facts.suffices_for(network) or network.in_blocks == NETWORKS[0].in_blocks


@pytest.mark.parametrize("megabytes", [0.02, 0.05, 0.07, 0.127, 1, 100])
def test_a_gpu_is_busy_but_a_small_text_has_its_steps(megabytes):
    """32,768 tokens a step, whatever the text, were 16 steps in 30 passes over 20 KB."""
    facts = facts_of(megabytes)
    network = network_for(facts, 3600, 6e14, "cuda")
    steps = passes.MOST * facts.distinct / (network.block_size * network.batch_size)
    assert steps >= 280
    assert megabytes < 1 or network.block_size * network.batch_size == 32_768


def test_the_best_network_is_the_one_that_the_law_has_least_missing_of():
    for seconds, megabytes in itertools.product((10, 100, 1000), (0.1, 1, 10)):
        left = {
            network: missing(network.in_blocks, tokens_in(network, seconds, RATE, "cpu", CHARACTERS), 1e6 * megabytes)
            for network in NETWORKS
        }
        assert best(NETWORKS, seconds, RATE, "cpu", CHARACTERS, 1e6 * megabytes) == min(left, key=left.__getitem__)


def test_an_outlook_on_a_text_has_a_plan_for_each_budget_here_and_on_gpus(tmp_path, monkeypatch):
    monkeypatch.setattr("primegpt.jobs.configuring.training_rate", lambda *_: RATE)
    monkeypatch.setattr("primegpt.jobs.outlook.choose_device", lambda _: "cpu")
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be\n" * 40_000, encoding="utf-8")
    here, there = outlook(text), outlook(text, 1, "h100")
    assert [plan.minutes for plan in here] == [plan.minutes for plan in there] == list(BUDGETS)
    assert all(plan.passes <= 30 for plan in (*here, *there))
    assert there[0].network.in_blocks > here[0].network.in_blocks
    assert here[0].as_json()["network"] == {"n_layer": 2, "n_embd": 64, "n_head": 1, "block_size": 64, "batch_size": 32}
    with pytest.raises(ConfigError, match="--gpu 'h00' is not known; did you mean 'h200'"):
        outlook(text, 1, "h00")


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty; give a text"), (b"GGUF\x03\x00\x00\x00" * 99, "not UTF-8 text")]
)
def test_there_is_no_outlook_on_what_is_no_text(content, said, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        outlook(path)
