"""Writing side by side: what the figures mean, that ours never stops early, and who is absent and why."""

import pytest
import torch

from primegpt import api
from primegpt.bench import decode
from primegpt.bench.compare import NO_TIME, Allowance
from primegpt.bench.decode import bench_decode, measure, random_prompts, read_bandwidth, weights_per_token
from primegpt.bench.random_run import GPT2_124M, made_up_tokenizer, save_random_run
from primegpt.bench.writers import Written, our_writer, written
from primegpt.errors import UsageError
from primegpt.model.size import parameter_count
from primegpt.tokenizers import store

TINY = {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 32, "vocab_size": 300}


@pytest.fixture(autouse=True)
def no_peers(monkeypatch):
    """Peers are slow to import; with them it is tests/peers that looks."""
    monkeypatch.setattr(decode, "missing", lambda module: f"no package {module} is installed")


def test_rates_count_all_streams():
    prompts = [[1, 2, 3, 4]] * 3
    calls = []

    def writer(prompts, tokens):
        calls.append((len(prompts), tokens))
        return Written([], 0.5, 2.0)

    prefill, decoded = measure({"ours": writer, "gone": "not here"}, prompts, 11, "tiny", turns=2)
    assert prefill.results[0].rates == (3 * 4 / 0.5,) * 2
    assert decoded.results[0].rates == (3 * 10 / 2.0,) * 2
    assert calls == [(3, 11)] * 3  # one of them to warm up
    assert prefill.results[1].absent == "not here"


def test_no_writer_is_made_or_warmed_up_once_time_is_over():
    over, called = Allowance(until=0.0), []
    found = measure({"ours": lambda *given: called.append(given)}, [[1, 2]], 4, "tiny", turns=2, allowance=over)
    assert [comparison.results[0].absent for comparison in found] == [NO_TIME] * 2
    with decode.made_ready({"ours": lambda: called.append("made"), "gone": "no"}, "fp32", print, over) as writers:
        assert writers == {"ours": NO_TIME, "gone": "no"}
    assert called == []


def test_times_of_fewer_tokens_are_refused():
    assert written([[7, 8, 9]], 1.0, [1.5, 2.0, 4.0], 3) == Written([[7, 8, 9]], 0.5, 2.5)
    with pytest.raises(AssertionError, match="tokens were written, not 3"):
        written([[7, 8, 9]], 1.0, [1.5, 2.0], 3)
    with pytest.raises(AssertionError, match="tokens were written, not 3"):
        written([[7, 8, 9], [7, 8]], 1.0, [1.5, 2.0, 4.0], 3)


def test_streams_have_prompts_of_their_own_and_every_turn_the_same():
    prompts = random_prompts(300, 5, 8)
    assert len({tuple(prompt) for prompt in prompts}) == 5
    assert prompts == random_prompts(300, 5, 8)
    assert all(0 <= id < 300 for prompt in prompts for id in prompt)


def test_ours_writes_on_where_the_model_wants_to_stop(tmp_path):
    run = api.load(save_random_run(tmp_path / "run", TINY))
    with torch.no_grad():  # whatever stands before, the end of text is the likeliest
        run.model.ln_f.weight.zero_()
        run.model.ln_f.bias.fill_(1.0)
        run.model.wte.weight[run.tokenizer.eot_id] = 1.0
    assert run.complete([1, 2, 3], temperature=0.0)[0].finish_reason == "stop"
    done = our_writer(run, "fp32")([[1, 2, 3], [4, 5, 6]], 6)
    assert done.ids == [[run.tokenizer.eot_id] * 6] * 2
    assert done.prefill > 0
    assert done.decoding > 0


@pytest.mark.reliability
def test_a_random_model_in_every_format(tmp_path):
    found = bench_decode(
        save_random_run(tmp_path / "run", TINY), prompt=4, tokens=4, streams=[1, 2], turns=1, buffer_megabytes=8
    )
    assert [comparison.task.split(":")[0] for comparison in found] == [
        f"{what}, {precision}, {streams}"
        for precision in ("fp32", "bf16", "int8", "int4")
        for streams in ("1 stream", "2 streams")
        for what in ("Prefill", "Decoding")
    ]
    assert all(comparison.results[0].median > 0 for comparison in found)
    limits = [comparison.results[0].limit for comparison in found if comparison.task.startswith("Decoding")]
    assert [limit / limits[0] for limit in limits] == pytest.approx([1, 2, 2, 4, 4, 8, 6.4, 12.8])
    assert "of the limit" in found[1].as_markdown()
    assert "of the limit" not in found[0].as_markdown()
    names = [result.name for result in found[1].results]
    assert names == ["primegpt", "Transformers", "llama.cpp f32"]
    assert found[1].results[1].absent == "no package transformers is installed"
    assert found[-1].results[1].absent == "has no int4 for CPUs of its own"


def test_what_a_peer_cannot_express_makes_it_absent(tmp_path, save_run, random_model, monkeypatch):
    monkeypatch.setattr(decode, "missing", lambda module: "")
    run = save_run(random_model(vocab_size=30), store.train("char", ["abcdefghijklmnopqrstuvwxyz"]))
    exports = decode.Exports(run, tmp_path)
    assert "no tokenizer like the kind 'char'" in str(decode.llama_path(exports, "bf16"))
    assert (tmp_path / "model-f32-hf" / "config.json").exists() is False
    assert decode.transformers_path(exports, "bf16") == tmp_path / "model-f32-hf"
    assert (tmp_path / "model-f32-hf" / "config.json").exists()


def test_the_default_is_gpt2_and_the_limit_counts_what_a_token_reads(tmp_path):
    run = api.load(save_random_run(tmp_path / "run", TINY))
    positions = TINY["block_size"] * TINY["n_embd"]
    assert weights_per_token(run.model) == sum(p.numel() for p in run.model.parameters()) - positions
    assert weights_per_token(run.model) == parameter_count(run.config.model) - positions
    assert made_up_tokenizer(GPT2_124M["vocab_size"]).vocab_size == 50_257
    with pytest.raises(UsageError, match="cannot be made up"):
        made_up_tokenizer(100)


def test_memory_is_read_at_a_likely_rate():
    assert 1e8 < read_bandwidth(16, repeats=2) < 1e13


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precisions": ["fp8"]}, "'fp8' is no number format"),
        ({"tokens": 1}, "two tokens"),
        ({"streams": [0]}, "one stream"),
        ({"prompt": 30, "tokens": 10}, "do not fit the model's context of 32"),
    ],
)
def test_wrong_requests(wrong, message):
    with pytest.raises(UsageError, match=message):
        bench_decode(sizes=TINY, buffer_megabytes=8, **wrong)


def test_a_cold_start_is_that_of_the_command(tmp_path, monkeypatch):
    run, asked = save_random_run(tmp_path / "run", TINY), []

    def output_of(command, **_):
        asked.append(command)
        return '{"ids": [1, 2, 3]}' if len(asked) > 1 else f'{{"ids": {[1] * 23}}}'

    monkeypatch.setattr(decode, "output_of", output_of)
    opened = api.load(run)
    exports = decode.Exports(run, tmp_path)
    cold = decode.bench_cold(run, opened, exports, "fp32", 1, 1, decode.silent)
    written = 32 - len(opened.tokenizer.encode(decode.COLD_PROMPT))
    assert asked[0][1:6] == ["-m", "primegpt", "generate", str(run), decode.COLD_PROMPT]
    assert asked[0][asked[0].index("--max-new-tokens") + 1] == str(written) == "23"
    assert cold.less_is_better
    assert len(cold.results[0].rates) == 1
    short = decode.bench_cold(run, opened, exports, "fp32", 1, 1, decode.silent)
    assert short.results[0].absent == "the text ended after 3 tokens"
