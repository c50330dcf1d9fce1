"""`evaluate`'s report in words."""

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
        units = {"acc": "sum", "acc_norm": "by characters", "acc_bytes": "by bytes", "acc_tokens": "by tokens"}
        for metric, unit in units.items():
            error = answers[f"{metric}_stderr"]
            rows.append(
                (metric, f"{answers[metric]:.2%}" + (f" ± {error:.2%}" if error is not None else "") + f"  {unit}")
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
    for task, metrics in report.get("harness", {}).items():
        rows.append((task, ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())))
    return rows


def _adherence_rows(measured: dict[str, Any]) -> list[tuple[str, str]]:
    scores = [("adherence", _SCORES)]
    for name, result in measured["generated"].items():
        scores += [(f"adherence, {name}", _scores(result)), ("  real answers", _scores(measured["real"][name]))]
    columns = zip(*(row for _, row in scores), strict=True)
    widths = [max(map(len, column)) for column in columns]
    rows = [(name, "  ".join(map(str.rjust, row, widths)).rstrip()) for name, row in scores]
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
        (f"copied {key.removeprefix('share_')}-grams", f"{written[key]:.1%} (validation text {held_out[key]:.1%})")
        for key in sizes
    ]
    quoted = " ".join(written["longest_text"].split())
    quoted = quoted if len(quoted) < 80 else quoted[:79] + "…"
    return [
        *rows,
        ("longest copied span", f"{written['longest']} tokens (validation text {held_out['longest']}): {quoted}"),
    ]
