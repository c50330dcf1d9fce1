"""`bench gpu` where there is no GPU: all of it once with next to nothing to do, and what a cut-off one keeps."""

import contextlib
import io
import json

import pytest
import torch

from primegpt.bench import gpu, gpu_training, process
from primegpt.bench.compare import Absent, Measure, compare_measures
from primegpt.bench.gpu import MEASUREMENTS, Measurement, bench_gpu
from primegpt.cli.main import run
from primegpt.errors import UsageError

QUICK = {"device": "cpu", "quick": True}


@pytest.fixture
def in_this_process(monkeypatch):
    """Our programs as calls instead of processes: the arguments are the same, and torch is imported already."""

    def output_of(command, **_):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            if command[:3] == gpu_training.PRIMEGPT:
                small = ["--data.songs", "60", "--generate.max_new_tokens", "1"]
                if run([*command[3:], *small], 0.0):
                    raise Absent("it failed")
            else:
                assert command[1:3] == ["-m", "primegpt.bench.process"]
                process.main(*command[3:])
        return out.getvalue()

    monkeypatch.setattr(gpu_training, "output_of", output_of)
    monkeypatch.setattr("primegpt.bench.decode.missing", lambda module: f"no {module} here")


@pytest.fixture
def two(monkeypatch):
    """Two measurements of two contestants each, in place of all: what was asked of them, and what is to go wrong."""
    asked, wrong = [], {}

    def measurement(name):
        def perform(job, allowance, keep):
            def turn(contestant):
                asked.append((name, contestant))
                if error := wrong.get((name, contestant)):
                    raise error
                return (len(asked),)

            runs = {each: lambda each=each: turn(each) for each in "ab"}
            return compare_measures([Measure(name, "tok/s")], runs, turns=1, allowance=allowance)

        return Measurement(lambda job: 60, perform)

    monkeypatch.setattr(gpu, "MEASUREMENTS", {"first": measurement("first"), "second": measurement("second")})
    return asked, wrong


@pytest.mark.usefixtures("in_this_process")
def test_every_measurement_runs_and_is_kept(tmp_path, capsys):
    out = tmp_path / "kept"
    assert run(["bench", "gpu", "--device", "cpu", "--quick", "--out", str(out)], 0.0) == 0
    results = {name: json.loads((out / f"{name}.json").read_text(encoding="utf-8")) for name in MEASUREMENTS}
    assert all(result["finished"] and result["tables"] for result in results.values())
    assert results["exactness"]["tables"][0]["hold"]
    (curve,) = results["recipe"]["tables"]
    assert curve["final_loss"] > 0
    assert len(curve["points"]) >= 1
    ours = [table["medians"]["primegpt"] for table in results["decoding"]["tables"]]
    assert len(ours) == 8  # two formats, one text and two, the prompt and what follows
    assert all(rate > 0 for rate in ours)
    assert results["training"]["tables"][0]["medians"].keys() == {"primegpt, gpt2", "primegpt, prime"}
    report = capsys.readouterr().out
    assert report == (out / "report.md").read_text(encoding="utf-8")
    assert [line.split(",")[0] for line in report.splitlines() if line.startswith("## ")] == [
        f"## {name}" for name in MEASUREMENTS
    ]


def test_what_was_measured_before_the_end_is_there_and_the_rest_comes_next(two, tmp_path):
    asked, wrong = two
    wrong["second", "b"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        bench_gpu(out=tmp_path, **QUICK)
    second = json.loads((tmp_path / "second.json").read_text(encoding="utf-8"))
    assert second["tables"][0]["medians"] == {"a": 3}
    assert not second["finished"]
    assert "## second, 0 s, not finished" in (tmp_path / "report.md").read_text(encoding="utf-8")
    wrong.clear()
    asked.clear()
    report = bench_gpu(out=tmp_path, **QUICK)
    assert asked == [("second", "a"), ("second", "b")]
    assert not report.left_out
    assert "not finished" not in report.as_markdown()


def test_what_does_not_fit_into_the_time_is_left_out(two, tmp_path, monkeypatch):
    asked, said = two[0], []
    clock = iter([0.0, *[100.0] * 1000])  # the first one takes all of the time
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(clock))
    report = bench_gpu(out=tmp_path, minutes=1.0, say=said.append, **QUICK)
    assert asked == []
    assert report.left_out == ["first", "second"]
    assert said == [
        "first: left out, it takes about 1 s and 0 s are left",
        "second: left out, it takes about 1 s and 0 s are left",
    ]


def test_a_measurement_that_fails_does_not_end_the_others(two, tmp_path):
    asked, wrong = two
    wrong["first", "b"] = RuntimeError("CUDA error: an illegal memory access\nmore")
    said = []
    report = bench_gpu(out=tmp_path, say=said.append, **QUICK)
    assert asked == [("first", "a"), ("first", "b"), ("second", "a"), ("second", "b")]
    assert (report.failed, report.left_out) == (["first"], [])
    assert "first: RuntimeError: CUDA error: an illegal memory access" in said
    first = json.loads((tmp_path / "first.json").read_text(encoding="utf-8"))
    assert first["error"].startswith("Traceback")
    assert first["tables"][0]["medians"] == {"a": 1}
    assert "## first, 0 s, not finished (more)" in report.as_markdown()


def test_what_failed_is_named_apart_from_what_was_left_out(two, tmp_path, capsys):
    two[1]["first", "b"] = RuntimeError("no")
    command = ["bench", "gpu", "--device", "cpu", "--quick", "--out", str(tmp_path)]
    assert run([*command, "--only", "first"], 0.0) == 0
    err = capsys.readouterr().err
    assert "failed: first; the same command goes on with them" in err
    assert "left out" not in err
    assert run([*command, "--minutes", "0.001"], 0.0) == 0
    err = capsys.readouterr().err
    assert "left out: first, second; the same command goes on with them" in err
    assert "failed" not in err


def test_going_on_keeps_what_there_was_until_there_is_as_much_again(two, tmp_path):
    wrong = two[1]
    wrong["second", "b"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        bench_gpu(out=tmp_path, **QUICK)

    def second():
        return json.loads((tmp_path / "second.json").read_text(encoding="utf-8"))

    kept = second()["tables"]
    assert kept[0]["medians"] == {"a": 3}
    wrong["second", "a"] = RuntimeError("out of memory")
    report = bench_gpu(out=tmp_path, **QUICK)
    assert (report.failed, report.left_out) == (["second"], [])
    assert (second()["tables"], second()["error"][:9], second()["finished"]) == (kept, "Traceback", False)
    report.perform("second", until=0.0)  # there is no time for a turn
    assert (second()["tables"], report.left_out) == (kept, ["second"])
    wrong.clear()
    assert not bench_gpu(out=tmp_path, **QUICK).left_out
    assert second()["tables"][0]["medians"].keys() == {"a", "b"}
    assert (second()["error"], second()["finished"]) == ("", True)


def test_a_checkout_of_nanogpt_may_come_later(tmp_path, monkeypatch):
    asked, said, out = [], [], tmp_path / "out"

    def perform(job, allowance, keep):
        asked.append(job.nanogpt)
        runs = {"ours": lambda: (1.0,), "nanoGPT": (lambda: (2.0,)) if job.nanogpt else gpu_training.NO_CHECKOUT}
        return compare_measures([Measure("steps", "tok/s")], runs, turns=1, allowance=allowance)

    monkeypatch.setattr(gpu, "MEASUREMENTS", {"training": Measurement(lambda job: 1, perform)})
    (tmp_path / "bench.py").touch()
    for nanogpt in (None, None, tmp_path, tmp_path, None):
        bench_gpu(out=out, nanogpt=nanogpt, say=said.append, **QUICK)
    assert asked == [None, tmp_path]
    assert said.count(f"training: is there already, in {out / 'training'}.json") == 3
    result = json.loads((out / "training.json").read_text(encoding="utf-8"))
    assert result["tables"][0]["medians"] == {"ours": 1.0, "nanoGPT": 2.0}


def test_no_device_gets_round_the_refusal_of_cpus(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "choose_device", lambda wanted: "cpu")
    with pytest.raises(UsageError, match="--device cpu: with --quick alone"):
        bench_gpu(out=tmp_path, device="auto")
    bench_gpu(out=tmp_path, device="auto", quick=True, only=["exactness"], minutes=1e-9)
    assert not list(tmp_path.iterdir())


def test_figures_of_another_set_up_are_not_mixed_in(two, tmp_path):
    bench_gpu(out=tmp_path, only=["first"], **QUICK)
    path = tmp_path / "first.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(result | {"setup": result["setup"] | {"torch": "2.0"}}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"first\.json was measured otherwise: torch was 2\.0, is "):
        bench_gpu(out=tmp_path, **QUICK)
    for text in ("", "[]", "{}", '{"setup": {}, "finished": true, "tables": [1]}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=r"first\.json: no result of `primegpt bench gpu`"):
            bench_gpu(out=tmp_path, **QUICK)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["bench", "gpu"], 0.0) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "primegpt: no CUDA GPU is here; `primegpt bench train` measures on the CPU\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 1}, "at least 8"),
        ({"batch_size": 0}, "at least 1"),
        ({"minutes": 0}, "more than 0"),
        ({"only": ["trainin"]}, "did you mean 'training'"),
        ({"source": "nowhere.txt"}, r"nowhere\.txt: no such file"),
        ({"quick": False}, "--device cpu: with --quick alone"),
        ({"device": "mps"}, "not available here"),
    ],
)
def test_wrong_requests(wrong, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        bench_gpu(out=tmp_path / "out", **QUICK | wrong)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_checkout(tmp_path):
    with pytest.raises(UsageError, match=r"no bench\.py"):
        bench_gpu(nanogpt=tmp_path, **QUICK)
