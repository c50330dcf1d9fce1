"""`evaluate`'s report in words and columns."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from primegpt.terminal import Table

UNITS = {"acc": "sum", "acc_norm": "by characters", "acc_bytes": "by bytes", "acc_tokens": "by tokens"}
INTERVAL = "95% interval"


def describe_evaluation(report: Mapping[str, Any]) -> list[Table]:
    """A table for each thing that was measured; which run it was of is the reader's to say."""
    known = {
        "text": _text,
        "pairs": _pairs,
        "hellaswag": _choices,
        "adherence": _adherence,
        "memorization": _copied,
        "reward": _rewards,
        "kl": _apart,
        "harness": _tasks,
    }
    return [table for key, tables in known.items() if report.get(key) for table in tables(report[key])]


def _text(text: Mapping[str, Any]) -> Iterator[Table]:
    rows = [
        ("loss", f"{text['loss']:.4f}", f"nats per {text['unit']}"),
        ("perplexity", f"{text['perplexity']:.3f}", f"per {text['unit']}"),
        ("bits per byte", f"{text['bits_per_byte']:.4f}", ""),
    ]
    note = f"{text['source']}: {text['tokens']:,} tokens, {text['bytes']:,} bytes, each target once"
    yield Table(("text", "", ""), rows, note)


def _pairs(pairs: Mapping[str, Any]) -> Iterator[Table]:
    figures = [(name, f"{value:.4f}") for name, value in pairs.items() if "/" in name]
    note = f"{pairs['pairs']:,} validation pairs"
    yield Table((pairs["objective"], ""), [("loss per pair", f"{pairs['loss']:.4f}"), *figures], note)


def _choices(answers: Mapping[str, Any]) -> Iterator[Table]:
    """How many endings were right, by each way of counting the log-probability of one."""
    errors = {metric: answers[f"{metric}_stderr"] for metric in UNITS}
    rows = [
        (metric, f"{answers[metric]:.2%}", "" if error is None else f"{error:.2%}", UNITS[metric])
        for metric, error in errors.items()
    ]
    cut = f", {answers['contexts_cut']:,} contexts cut on the left" if answers["contexts_cut"] else ""
    pace = f"{1000 * answers['seconds_per_item']:.1f} ms an item"
    note = f"{answers['items']:,} items, chance {answers['chance']:.0%}, {pace}{cut}"
    yield Table(("HellaSwag", "right", "± standard error", "log-probability"), rows, note)


def _adherence(measured: Mapping[str, Any]) -> Iterator[Table]:
    rows = list[tuple[str, ...]]()
    for name, result in measured["generated"].items():
        rows += [(name, *_scores(result)), ("  real answers", *_scores(measured["real"][name]))]
    names = ", ".join(measured["left_out"])
    note = f"left out: {names}, which can be judged of the songbook's songs alone" if names else ""
    yield Table(("adherence", "own prompt", "others'", "lift", INTERVAL), rows, note)
    info = measured["prompt_information"]
    losses = [(name, f"{info[key]:.4f}", "") for name, key in PROMPTS.items()]
    gained = ("prompt information", f"{info['information']:+.4f}", _interval(info, "+.4f"))
    cut = f", {info['cut']} cut" if info["cut"] else ""
    yield Table(("loss of an answer", "nats per token", INTERVAL), [*losses, gained], f"{info['songs']} answers{cut}")


PROMPTS = {"under its own prompt": "own", "under another's": "shuffled", "under none": "none"}


def _scores(result: Mapping[str, Any]) -> tuple[str, ...]:
    """An answer's score under its own prompt and under the others', the lift, and its interval."""
    if result["own"] is None:
        return ("none asks", "", "", "")
    if result["lift"] is None:
        return (f"{result['own']:.1%}", "", "", "")
    interval = _interval(result, "+.3f")
    return (f"{result['own']:.1%}", f"{result['shuffled']:.1%}", f"{result['lift']:+.3f}", interval)


def _copied(copied: Mapping[str, Any]) -> Iterator[Table]:
    written, held_out = copied["generated"], copied["held_out"]
    sizes = [key for key in written if key.startswith("share_")]
    rows = [
        (f"copied {key.removeprefix('share_')}-grams", f"{written[key]:.1%}", f"{held_out[key]:.1%}") for key in sizes
    ]
    spans = ("longest copied span", f"{written['longest']} tokens", f"{held_out['longest']} tokens")
    quoted = " ".join(written["longest_text"].split())
    quoted = quoted if len(quoted) <= 78 else quoted[:77] + "…"
    yield Table(("memorisation", "samples", "validation text"), [*rows, spans], f"“{quoted}”" if quoted else "")


def _rewards(judged: Mapping[str, Any]) -> Iterator[Table]:
    parts = judged["rewards"].items() if len(judged["rewards"]) > 1 else ()
    rows = [(name, f"{each['mean']:.4f}", _interval(each, ".4f")) for name, each in (("mean", judged), *parts)]
    how = f"temperature {judged['temperature']:g}, {judged['mean_tokens']:.0f} tokens on average"
    cut = f", {judged['cut']:.1%} cut short" if judged["cut"] else ""
    yield Table(("reward", "", INTERVAL), rows, f"{judged['prompts']:,} answers, {how}{cut}")


def _apart(apart: Mapping[str, Any]) -> Iterator[Table]:
    rows = [
        ("per token", f"{apart['per_token']:.4f}", _interval(apart, ".4f")),
        ("per answer", f"{apart['per_answer']:.2f}", ""),
    ]
    note = f"from {apart['from']}; {apart['prompts']:,} answers, {apart['tokens']:,} tokens"
    yield Table(("KL divergence", "nats", INTERVAL), rows, note)


def _tasks(tasks: Mapping[str, Mapping[str, float]]) -> Iterator[Table]:
    rows = [(task, name, f"{value:.4f}") for task, found in tasks.items() for name, value in found.items()]
    yield Table(("task", "measure", "value"), rows)


def _interval(found: Mapping[str, Any], form: str) -> str:
    """Its ends as numbers of that form; nothing where there is none, as of one answer."""
    ends: Sequence[float] = found["interval"] or ()
    return " … ".join(format(end, form) for end in ends)
