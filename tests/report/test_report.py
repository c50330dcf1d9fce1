"""The report of a run in every state that a run can be in, read back as a browser would read it."""

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from platform import python_version

import pytest

import primegpt
from primegpt.config import resolve, write_toml
from primegpt.errors import RunFolderError, UsageError
from primegpt.jobs.facts import describe, info
from primegpt.jobs.listing import report
from primegpt.report.history import History
from primegpt.run.folder import RunFolder
from primegpt.run.saving import save_checkpoint
from primegpt.run.sessions import add_session
from primegpt.tokenizers import store

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8}
LOSSES = [3.1, 2.2, 1.9, 2.1, 2.4]  # at steps 0, 10, 20, 30, 40


class Words(HTMLParser):
    """The text of a page, its table rows, and the titles of its charts and cards."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.rows, self.bold, self.scripts, self.open = "", [], [], 0, []
        self.feed(path.read_text(encoding="utf-8"))
        self.cells = {row[0]: row[1:] for row in self.rows if row}

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.scripts += tag == "script"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "script" in self.open or "style" in self.open:
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        if {"b", "strong"} & set(self.open):
            self.bold.append(data)


@pytest.fixture
def make_run(tmp_path):
    """Write a run folder as training leaves it, from its metrics; no model is trained."""

    def make(name="run", *, losses=LOSSES, finished=True, text="abcdefgh the cat\n", sample="the cat sat", **train):
        folder = RunFolder.create(tmp_path / name)
        tokenizer = store.train("char", [text], None)
        config = resolve(
            {
                "model": {**SIZES, "vocab_size": tokenizer.vocab_size},
                "tokenizer": {"kind": "char"},
                "data": {"sources": ["my.txt"]},
                "train": {"max_steps": 40, "precision": "fp32", "attention": "sdpa", **train},
                "plan": {"device": "cpu", "threads": 1, "train_tokens": 9000, "expected_seconds": 40.0},
            }
        )
        folder.config_path.write_text(write_toml(config), encoding="utf-8")
        store.save(tokenizer, folder.tokenizer_dir)
        data = {"train_bytes": 9000, "val_bytes": 1000, "val_fingerprint": "v" * 64, "train_fingerprint": "t" * 64}
        folder.data_path.write_text(json.dumps(data | {"tokenizer_fingerprint": tokenizer.fingerprint}))
        for index, loss in enumerate(losses):
            step = 10 * index
            if step:
                speed = {"lr": 1e-3, "grad_norm": 1.0, "tokens_per_sec": 500.0, "mfu": 0.25, "memory_mb": 300.0}
                folder.append_metrics({"step": step, "tokens": 90 * step, "seconds": step, "train/loss": loss, **speed})
            folder.append_metrics(
                {"step": step, "tokens": 90 * step, "seconds": step, "train/eval_loss": loss - 0.1}
                | {"val/loss": loss, "val/perplexity": 2.718**loss, "val/bits_per_byte": loss * 1.44}
            )
            (folder.samples_dir / f"step-{step:06d}.txt").write_text(f"{sample} {step}\n", encoding="utf-8")
        if finished:
            final = {"final/step": 20, "final/val/loss": 1.9512, "final/val/perplexity": 7.0}
            folder.append_metrics({"step": 10 * len(losses) - 10, **final, "final/val/bits_per_byte": 2.8149})
        return folder

    return make


def test_a_finished_run_is_told_from_end_to_end(make_run):
    run = make_run()
    path = report(run.path)
    assert path == run.path / "report.html"
    page = Words(path)
    assert "Finished after 40 steps" in page.text
    assert {"1.9512", "2.8149", "40"} <= set(page.bold)
    assert {"Loss", "Learning rate", "Gradient norm", "Speed", "Memory"} <= set(page.bold)
    assert [f"the cat sat {step}" in page.text for step in (0, 10, 20, 30, 40)] == [True] * 5
    assert page.cells["split"] == ["9 KB to train on, 1 KB held out"]
    assert page.cells["kind"] == ["char"]
    assert page.cells["model.n_embd"] == ["16"]
    assert page.cells["model FLOPs utilisation"][0].startswith("25.0%")
    assert "Best at step 20 of 40: it got worse from there. The validation loss rose from 1.9000 to 2.4000" in page.text
    assert page.scripts == 1


def test_parameters_are_those_of_the_model(make_run):
    from primegpt.model.gpt import GPT

    run = make_run()
    page = Words(report(run.path))
    count = sum(p.numel() for p in GPT(History.read(run.path).config.model).parameters())
    assert page.cells["parameters"] == [f"{count:,}"]
    inside = [int(page.cells[f"in {part}"][0].replace(",", "")) for part in ("attention", "MLPs")]
    assert sum(inside) < int(page.cells["outside embeddings"][0].replace(",", "")) < count


@pytest.mark.parametrize(
    ("losses", "patience", "status"),
    [
        ([3.0, 2.0, 2.1, 2.2], 2, "Stopped early at step 30 of 40: no better validation loss in 2 evaluations"),
        ([3.0, 2.0, 1.0, 1.1, 1.2], 2, "Finished after 40 steps"),  # patience ends with the plan: nothing was cut short
        ([3.0, 2.0, 2.1, 2.2], None, "Finished after 30 steps"),
    ],
)
def test_early_stopping_is_told_from_the_evaluations(make_run, losses, patience, status):
    run = make_run(losses=losses, patience=patience)
    assert Words(report(run.path)).text.count(status) == 1


def test_a_run_that_trains_now_and_one_that_was_stopped(make_run):
    run = make_run(losses=LOSSES[:3], finished=False)
    with run.lock():
        page = Words(report(run.path))
    assert "Training now, step 20 of 40" in page.text
    assert {"1.9000", "Loss"} <= set(page.bold)  # the best evaluation, before all the held-out text was judged
    assert f"Stopped at step 20 of 40; go on with: primegpt train --resume {run.path}".lower() in (
        Words(report(run.path)).text.lower()
    )


def test_before_the_first_line_there_is_a_page_already(make_run):
    run = make_run(losses=[], finished=False)
    page = Words(report(run.path))
    assert "Not begun" in page.text
    assert "No step has been logged yet." in page.text


def test_an_imported_run_has_no_metrics(make_run):
    run = make_run(losses=[], finished=False)
    run.data_path.unlink()
    run.config_path.write_text(run.config_path.read_text(encoding="utf-8").partition("[plan]")[0], encoding="utf-8")
    page = Words(report(run.path))
    assert "Imported, not trained here" in page.text
    assert page.cells["kind"] == ["char"]


@pytest.mark.parametrize(
    "damage", [b'{"step": 50, "val/lo', b"\xff\x00\n", b'{"step": "x"}\n', b"[1]\n", b'{"lr": 1}\n']
)
def test_a_damaged_line_of_metrics_costs_only_itself(make_run, damage):
    run = make_run()
    whole, before = report(run.path).read_text(encoding="utf-8"), run.read_metrics()
    with open(run.metrics_path, "ab") as file:
        file.write(damage)
    told = History.read(run.path)
    if damage.endswith(b"\n"):
        assert told.remarks == [f"left out, since damaged: 1 line of {run.metrics_path}"]
    else:  # the last one, which a kill may have torn
        assert report(run.path).read_text(encoding="utf-8") == whole
    assert told.lines == before


def test_nan_leaves_a_gap(make_run):
    run = make_run(finished=False)
    run.append_metrics({"step": 50, "train/loss": float("nan"), "grad_norm": float("inf"), "lr": 1e-3})
    report(run.path)
    assert History.read(run.path).points("grad_norm")[-1] == (50, None)


def test_what_is_damaged_is_named_and_the_rest_is_told(make_run):
    run = make_run()
    run.data_path.write_text("{", encoding="utf-8")
    meta = next(path for path in run.tokenizer_dir.iterdir() if path.suffix == ".json")
    meta.write_text("{", encoding="utf-8")
    save_checkpoint(run.checkpoints_dir, 40, {}, {"train": {"step": 40}})
    (run.checkpoints_dir / "step-000040" / "state.json").write_text("{", encoding="utf-8")
    page = Words(report(run.path))
    assert "data.json is damaged" in page.text
    assert str(meta.name) in page.text or "tokenizer" in page.text
    assert "state.json is damaged" in page.text
    assert "1.9512" in page.bold


def test_a_damaged_newest_checkpoint_is_said_once(make_run, capsys):
    run = make_run()
    for step in (30, 40):
        save_checkpoint(run.checkpoints_dir, step, {}, {"train": {"step": step}})
    (run.checkpoints_dir / "step-000040" / "state.json").write_text("{", encoding="utf-8")
    assert sum("state.json" in remark for remark in History.read(run.path).remarks) == 1
    told = str(describe(info(run.path))) + capsys.readouterr().err
    assert told.count("state.json is damaged") == 1


def test_markup_in_what_a_model_wrote_is_shown_not_obeyed(make_run):
    run = make_run("R&amp;D", sample="</pre><script>alert(1)</script>\x00\x1b[31m")
    page = Words(report(run.path))
    assert page.scripts == 1
    assert page.text.count(r"</pre><script>alert(1)</script>\x00\x1b[31m") == 5
    assert "R&amp;D" in page.text


def test_events_are_told_in_words(make_run):
    run = make_run()
    events = [
        {"step": 5, "batch_size": 2, "gradient_accumulation_steps": 4},
        {"step": 0, "max_steps": 50},
        {"step": 9, "max_steps": 44, "done": 0.5, "eval_interval": 4},
        {"step": 10, "max_steps": 60, "anew": False, "training_seconds": 90.0, "seconds": 30.0, "from": 0.6},
        {"step": 11, "max_steps": 61, "anew": False, "training_seconds": 0.0, "seconds": 30.0, "from": 0.6},
        {"step": 12, "something": "new"},
        {"step": 13, "threads": 1},
    ]
    save_checkpoint(run.checkpoints_dir, 40, {}, {"train": {"step": 40, "max_steps": 44, "events": events}})
    run.point("best", 20)
    run.point("last", 40)
    page = Words(report(run.path))
    assert "Step 5: out of memory; from there on 2 windows in a micro-batch, 4 micro-batches in a step." in page.text
    assert "Step 9: the pace was not as planned; 44 steps in all fit the time there is." in page.text
    assert "Step 0: 50 steps were planned." in page.text
    assert "Step 10: extended to 60 steps in all, in 1 min 30 s of training." in page.text
    assert "Step 11: extended to 61 steps in all." in page.text
    assert "Step 12: something new" in page.text
    assert "Step 13: other programs came or went; steps have 1 thread from there on." in page.text
    assert page.cells["checkpoints"] == ["40 (last)"]


def test_an_uneven_pace_is_told_once(make_run):
    run = make_run()
    events = [{"step": step, "max_steps": 100 - step} for step in (0, 3, 18, 29)]
    save_checkpoint(run.checkpoints_dir, 40, {}, {"train": {"step": 40, "max_steps": 71, "events": events}})
    page = Words(report(run.path))
    assert "The pace was not as planned, 3 times between steps 3 and 29; in the end 71 steps in all fitted" in page.text
    assert page.text.count("not as planned") == 1


def test_threads_that_come_and_go_are_told_once(make_run):
    run = make_run()
    events = [{"step": step, "threads": threads} for step, threads in ((3, 1), (18, 2), (29, 1))]
    save_checkpoint(run.checkpoints_dir, 40, {}, {"train": {"step": 40, "max_steps": 71, "events": events}})
    page = Words(report(run.path))
    assert "the number of threads changed 3 times between steps 3 and 29; it was 1 in the end." in page.text
    assert "from there on" not in page.text


def test_where_a_run_comes_from(make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run()
    with run.lock():
        add_session(run, "2.13.0", "primegpt train my.txt")
        add_session(run, "2.13.0", "primegpt train --resume runs/my-1")
    page = Words(report(run.path))
    assert page.cells["command"] == ["primegpt train my.txt\nprimegpt train --resume runs/my-1"]
    assert page.cells["versions"] == [f"primegpt {primegpt.__version__}, torch 2.13.0, Python {python_version()}"]
    assert page.cells["begun"][0] == page.cells["last written"][0]
    assert page.cells["folder"] == ["run"]  # from the working folder, as one would type it
    assert str(tmp_path) not in page.text


def test_no_line_leads_from_the_first_evaluation_to_the_next(make_run):
    """Between them a loss falls steeply at first: a straight line would tell of a course that was not."""
    html = report(make_run().path).read_text(encoding="utf-8")
    facts = [json.loads(unescape(found)) for found in re.findall(r'data-chart="([^"]*)"', html)]
    (loss,) = (chart for chart in facts if any(line["name"].startswith("validation") for line in chart["series"]))
    for line in loss["series"][1:]:
        assert [at for at, _ in line["points"]] == [0, 0, 10, 20, 30, 40]
        assert line["points"][1][1] is None


def test_early_evaluations_are_in_the_curves_and_in_nothing_else(make_run):
    """They are of a part of the text, so the best of all is not theirs, however low."""
    run = make_run()
    lines = run.read_metrics()
    early = [{"step": s, "tokens": 90 * s, "seconds": s, "early/val/loss": 3.0 - s / 2} for s in (1, 2, 5)]
    run.truncate_metrics(lambda line: False)
    for line in [lines[0], *early, *lines[1:]]:
        run.append_metrics(line)
    path = report(run.path)
    facts = [json.loads(unescape(found)) for found in re.findall(r'data-chart="([^"]*)"', path.read_text("utf-8"))]
    drawn = [line["points"] for chart in facts for line in chart["series"] if line["name"].startswith("validation")]
    course = [[0, 3.1], [1, 2.5], [2, 2.0], [5, 0.5], [10, 2.2], [20, 1.9], [30, 2.1], [40, 2.4]]
    assert drawn == [course, course]
    assert [chart["counted"] for chart in facts[:2]] == [False, True]
    assert "Best at step 20 of 40" in Words(path).text


def test_fine_tuning_tells_what_was_trained_and_what_was_forgotten(make_run):
    run = make_run()
    text = run.config_path.read_text(encoding="utf-8").replace("rank = 0", "rank = 2")
    run.config_path.write_text(text, encoding="utf-8")
    run.append_metrics({"step": 40, "base/loss_before": 1.25, "base/loss_after": 1.5})
    page = Words(report(run.path))
    assert "went from 1.2500 to 1.5000" in page.text
    trained = 2 * sum(a + b for a, b in ((16, 48), (16, 16), (16, 64), (64, 16))) * 2  # rank, two layers
    assert page.cells["trained by LoRA"][0].startswith(f"{trained:,} (")


@pytest.mark.parametrize(("sft_weight", "drawn"), [(0.0, True), (1.0, False)])
def test_guessing_costs_ln_2_only_where_the_loss_is_of_pairs_alone(make_run, sft_weight, drawn):
    run = make_run(losses=[0.69, 0.6, 0.5], objective="dpo", sft_weight=sft_weight, finished=False)
    text = run.metrics_path.read_text(encoding="utf-8").replace("val/perplexity", "val/rewards/margins")
    run.metrics_path.write_text(text, encoding="utf-8")
    assert ("guessing: ln 2" in report(run.path).read_text(encoding="utf-8")) == drawn


def test_many_samples_are_thinned_and_counted(make_run):
    run = make_run()
    for step in range(50, 500, 10):
        (run.samples_dir / f"step-{step:06d}.txt").write_text("x\n", encoding="utf-8")
    (run.samples_dir / "step-notes.txt").write_text("mine", encoding="utf-8")
    page = Words(report(run.path))
    shown = [title for title in page.bold if re.fullmatch(r"Step \d+", title)]
    assert len(shown) == 9
    assert (shown[0], shown[-1]) == ("Step 0", "Step 490")
    assert "41 more are in the folder samples." in page.text


def test_several_runs_stand_side_by_side(make_run, tmp_path):
    one, two = make_run("one"), make_run("two", losses=[3.0, 2.5], learning_rate=1e-3, finished=False)
    path = report(one.path, two.path)
    assert path == tmp_path / "report.html"
    page = Words(path)
    assert page.cells["validation loss"] == ["1.9512", "2.5000"]
    assert "1.9512" in page.bold
    assert "2.5000" not in page.bold
    assert page.cells["train.learning_rate"] == ["0.0006", "0.001"]
    differing = page.text.split("What differs", 2)[2].split("Samples")[0]
    assert "train.learning_rate" in differing
    assert "model.n_embd" not in differing
    assert {"Validation loss", "Validation loss by time", "Validation loss by tokens seen"} <= set(page.bold)
    assert "the cat sat 40" in page.text
    assert "the cat sat 10" in page.text


def test_losses_under_different_tokenizers_are_not_compared(make_run):
    one, two = make_run("one"), make_run("two", text="quite other letters\n")
    page = Words(report(one.path, two.path))
    assert "The tokenizers differ" in page.text
    assert "Validation loss" not in page.bold
    assert page.bold.count("2.8149") == 2  # bits per byte may be compared; here they are equal
    assert "1.9512" not in page.bold


def test_runs_of_one_name_are_told_apart(make_run):
    one, two = make_run("a/run"), make_run("b/run")
    assert f"{one.path} · {two.path}" in Words(report(one.path, two.path)).text


def test_the_report_goes_where_it_is_asked_to(make_run, tmp_path):
    run = make_run()
    before = sorted(path.name for path in run.path.iterdir())
    assert report(run.path, out=tmp_path / "page.html") == tmp_path / "page.html"
    assert sorted(path.name for path in run.path.iterdir()) == before  # nothing else is touched
    with pytest.raises(UsageError, match="is a folder; name a file"):
        report(run.path, out=tmp_path)


def test_no_run_is_one_line(make_run, tmp_path):
    run = make_run()
    with pytest.raises(RunFolderError, match="there is no run"):
        report(run.path, tmp_path / "nowhere")


def test_what_an_objective_measures_has_a_chart_of_its_own(make_run):
    folder = make_run()
    with folder.lock():
        folder.append_metrics({"step": 50, "train/loss": 0.5, "lr": 1e-3, "rewards/accuracies": 0.75})
    page = report(folder.path).read_text(encoding="utf-8")
    assert "rewards/accuracies" in page
