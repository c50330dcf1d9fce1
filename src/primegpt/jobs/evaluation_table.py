"""`evaluate`'s report in words and columns."""

from collections.abc import Sequence
from functools import partial
from typing import Any


def describe_evaluation(report: dict[str, Any]) -> list[tuple[str, str]]:
    """`evaluate`'s report as a table, a row a measure."""
    rows = [(report["run"], f"step {report['step']}")]
    if text := report.get("text"):
        rows += [
            ("text", f"{text['source']}: {text['tokens']:,} tokens, {text['bytes']:,} bytes, each target once"),
            ("loss", f"{text['loss']:.4f} nats per {text['unit']}"),
            ("perplexity", f"{text['perplexity']:.3f}"),
            ("bits per byte", f"{text['bits_per_byte']:.4f}"),
        ]
    if pairs := report.get("pairs"):
        rows.append((pairs["objective"], f"{pairs['loss']:.4f} per pair, {pairs['pairs']:,} validation pairs"))
        rows += [(name, f"{value:.4f}") for name, value in pairs.items() if "/" in name]
    if answers := report.get("hellaswag"):
        cut = f", {answers['contexts_cut']:,} contexts cut on the left" if answers["contexts_cut"] else ""
        pace = f"{1000 * answers['seconds_per_item']:.1f} ms an item"
        rows.append(("HellaSwag", f"{answers['items']:,} items, chance {answers['chance']:.0%}, {pace}{cut}"))
        rows += _in_columns(
            [("", "right", "± standard error", "log-probability"), *map(partial(_choices, answers), UNITS)]
        )
    if measured := report.get("adherence"):
        rows += _adherence_rows(measured)
    if copied := report.get("memorization"):
        rows += _memorization_rows(copied)
    if judged := report.get("reward"):
        rows += _reward_rows(judged)
    if apart := report.get("kl"):
        low, high = apart["interval"]
        rows += [
            ("KL divergence", f"{apart['per_token']:.4f} [{low:.4f}, {high:.4f}] nats per token from {apart['from']}"),
            ("", f"{apart['per_answer']:.2f} per answer; {apart['prompts']:,} answers, {apart['tokens']:,} tokens"),
        ]
    tasks = report.get("harness", {}).items()
    rows += _in_columns([(task, name, f"{value:.4f}") for task, found in tasks for name, value in found.items()])
    return rows


UNITS = {"acc": "sum", "acc_norm": "by characters", "acc_bytes": "by bytes", "acc_tokens": "by tokens"}


def _choices(answers: dict[str, Any], metric: str) -> tuple[str, ...]:
    """How many endings were right, where the log-probability of each is counted as `metric` does."""
    error = answers[f"{metric}_stderr"]
    return metric, f"{answers[metric]:.2%}", "" if error is None else f"{error:.2%}", UNITS[metric]


def _in_columns(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, str]]:
    """Rows of a name and cells as those of a name and a text, the cells below one another; numbers end alike."""
    if not rows:
        return []
    columns = list(zip(*(cells for _, *cells in rows), strict=True))
    widths = [max(map(len, column)) for column in columns]
    sides = [str.rjust if any(cell[:1] in "+-0123456789" for cell in column) else str.ljust for column in columns]
    lines = [[side(cell, width) for side, cell, width in zip(sides, cells, widths, strict=True)] for _, *cells in rows]
    return [(row[0], "  ".join(line).rstrip()) for row, line in zip(rows, lines, strict=True)]


def _adherence_rows(measured: dict[str, Any]) -> list[tuple[str, str]]:
    scores = [("adherence", *_SCORES)]
    for name, result in measured["generated"].items():
        scores += [(f"adherence, {name}", *_scores(result)), ("  real answers", *_scores(measured["real"][name]))]
    rows = _in_columns(scores)
    if measured["left_out"]:
        names = ", ".join(measured["left_out"])
        rows.append(("", f"left out: {names}, which can be judged of the songbook's songs alone"))
    info = measured["prompt_information"]
    low, high = info["interval"]
    cut = f", {info['cut']} cut" if info["cut"] else ""
    rows += [
        ("prompt information", f"{info['information']:+.4f} [{low:+.4f}, {high:+.4f}] nats per answer token"),
        ("", f"own prompt {info['own']:.4f}, another's {info['shuffled']:.4f}, none {info['none']:.4f}; "
             f"{info['songs']} answers{cut}"),
    ]  # fmt: skip
    return rows


def _reward_rows(judged: dict[str, Any]) -> list[tuple[str, str]]:
    how = f"temperature {judged['temperature']:g}, {judged['mean_tokens']:.0f} tokens on average"
    cut = f", {judged['cut']:.1%} cut short" if judged["cut"] else ""
    rows = [("reward", f"{_with_interval(judged)}\n{judged['prompts']:,} answers, {how}{cut}")]
    if len(judged["rewards"]) > 1:
        rows += [(f"reward, {name}", _with_interval(each)) for name, each in judged["rewards"].items()]
    return rows


def _with_interval(found: dict[str, Any]) -> str:
    low, high = found["interval"] or (None, None)
    return f"{found['mean']:.4f}" + (f" [{low:.4f}, {high:.4f}]" if low is not None else "")


_SCORES = ("own prompt", "others'", "lift", "95% interval")


def _scores(result: dict[str, Any]) -> tuple[str, ...]:
    """An answer's score under its own prompt and under the others', in the columns of `_SCORES`."""
    if result["own"] is None:
        return ("none asks", "", "", "")
    if result["lift"] is None:
        return (f"{result['own']:.1%}", "", "", "")
    low, high = result["interval"]
    interval = f"{low:+.3f} … {high:+.3f}"
    return (f"{result['own']:.1%}", f"{result['shuffled']:.1%}", f"{result['lift']:+.3f}", interval)


def _memorization_rows(copied: dict[str, Any]) -> list[tuple[str, str]]:
    written, held_out = copied["generated"], copied["held_out"]
    sizes = [key for key in written if key.startswith("share_")]
    rows = [
        (f"copied {key.removeprefix('share_')}-grams", f"{written[key]:.1%}", f"{held_out[key]:.1%}") for key in sizes
    ]
    spans = ("longest copied span", f"{written['longest']} tokens", f"{held_out['longest']} tokens")
    quoted = " ".join(written["longest_text"].split())
    quoted = quoted if len(quoted) < 80 else quoted[:79] + "…"
    return [*_in_columns([("memorisation", "samples", "validation text"), *rows, spans]), ("", quoted)]
