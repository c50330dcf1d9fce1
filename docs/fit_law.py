"""Fit the law that plans go by to the runs in docs/law.json; write docs/law.md and its pictures.

python docs/fit_law.py                        the runs that are kept
python docs/fit_law.py runs/law/results.json runs/law-check/results.json
                                              those of `primegpt experiment law`, which the law is fitted to, and of
                                              `law-check`, which it is held against; both are kept from then on

The constants that it prints are those of src/primegpt/planning/law.py.
"""

import json
import math
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np

from primegpt.config import TOKENIZER_KINDS
from primegpt.experiments.plan_law import FEWEST, PlanLaw, Run, fit_plan_law, tables
from primegpt.planning import law as plans
from primegpt.planning import passes
from primegpt.planning.law import Network
from primegpt.planning.recipe import NETWORKS, TextFacts
from primegpt.report.chart import Series
from primegpt.report.pictures import Plot

FOLDER = Path(__file__).parent
KEPT, PAGE, PICTURES = FOLDER / "law.json", FOLDER / "law.md", FOLDER / "images"
RATE, CHARACTERS = plans.STATED_RATES["cpu"], TOKENIZER_KINDS["char"].assumed
BUDGETS = [10 * 2 ** (half / 2) for half in range(18)]  # seconds

HEAD = """\
# The law that plans go by

Made from `docs/law.json` by `python docs/fit_law.py`; a test keeps the constants of `planning/law.py` those of this
fit. [How a plan is made](planning.md) has what the law says, and where the texts come from. Seconds are those of two
cores that multiply matrices at 400 GFLOP/s.

"""

Measured = dict[Network, list[tuple[float, float]]]
"""Of each network the logarithms of seconds and of loss, by rising seconds."""


def read_runs(path: Path, which: str = "runs") -> list[Run]:
    """The runs of a file of this folder, or of results.json of an experiment."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return [Run(**each) for each in values.get("analysis", {}).get("figures", values)[which]]


def facts_of(text: str, runs: list[Run]) -> TextFacts:
    """What a plan would know of a text; characters are as many as are assumed of one."""
    run = next(run for run in runs if run.text == text)
    return TextFacts(run.vocab_size or CHARACTERS, run.distinct)


def networks_of(text: str, runs: list[Run]) -> list[Network]:
    """Those of plans that the text suffices for, each with the context that it was measured with, if it was."""
    contexts = {run.in_blocks: run.block_size for run in runs if run.text == text}
    facts = facts_of(text, runs)
    return [
        network._replace(block_size=contexts.get(network.in_blocks, network.block_size))
        for network in NETWORKS
        if facts.suffices_for(network)
    ]


def by_seconds(text: str, runs: list[Run]) -> Measured:
    """What was measured on a text, on two cores at the stated rate."""
    facts, found = facts_of(text, runs), Measured()
    for network in networks_of(text, runs):
        a_second = plans.tokens_in(network, 1.0, RATE, "cpu", facts.vocab_size)
        mine = [run for run in runs if run.text == text and run.in_blocks == network.in_blocks]
        if mine:
            found[network] = sorted((math.log(run.tokens / a_second), math.log(run.loss)) for run in mine)
    return found


def picture(law: PlanLaw, text: str, runs: list[Run]) -> Plot:
    """Loss over seconds: networks as measured, and the one that a plan takes, by the law."""
    facts = facts_of(text, runs)
    series = [
        Series(f"{network.n_layer} x {network.n_embd}", [(math.exp(x), math.exp(y)) for x, y in points], dots=True)
        for network, points in by_seconds(text, runs).items()
    ]
    line = []
    for seconds in BUDGETS:
        network = plans.best(networks_of(text, runs), seconds, RATE, "cpu", *facts[:2])
        tokens = plans.tokens_in(network, seconds, RATE, "cpu", facts.vocab_size)
        tokens = round(min(tokens, passes.MOST * facts.distinct))
        line.append((seconds, law.loss(Run(text, network.in_blocks, tokens, round(facts.distinct), 1.0))))
    series.append(Series("the plan's network, by the law", line))
    return Plot(f"law-{text}", text, series, "seconds", "loss", logarithmic=True)


def choices(law: PlanLaw, text: str, runs: list[Run]) -> list[tuple[str, ...]]:
    """The network of a plan by `law` beside the best one, between measured runs, where there are two or more."""
    rows: list[tuple[str, ...]] = []
    for seconds in (4, 8, 16, 32, 64, 128, 256):
        losses = {
            network: math.exp(np.interp(math.log(seconds), [x for x, _ in points], [y for _, y in points]))
            for network, points in by_seconds(text, runs).items()
            if points[0][0] <= math.log(seconds) <= points[-1][0]
        }
        if len(losses) > 1:
            best, ours = min(losses, key=losses.__getitem__), law_choice(law, list(losses), seconds, text, runs)
            behind = losses[ours] / losses[best] - 1
            measured = ", ".join(f"{network.n_layer} x {network.n_embd}" for network in losses)
            rows.append((text, f"{seconds}", measured, named(best, losses), named(ours, losses), f"{behind:.1%}"))
    return rows


def law_choice(law: PlanLaw, networks: list[Network], seconds: float, text: str, runs: list[Run]) -> Network:
    """The network that a law expects most of, by its constants of all texts."""
    facts = facts_of(text, runs)

    def missing(network: Network) -> float:
        tokens = round(plans.tokens_in(network, seconds, RATE, "cpu", facts.vocab_size))
        any_text = PlanLaw(law.alpha, law.beta, law.worth, law.ratio, {text: (0.0, law.ratio, 1.0)}, ())
        return any_text.loss(Run(text, network.in_blocks, tokens, round(facts.distinct), 1.0))

    return min(networks, key=missing)


def named(network: Network, losses: dict[Network, float]) -> str:
    return f"{network.n_layer} x {network.n_embd}: {losses[network]:.3f}"


def page(law: PlanLaw, runs: list[Run], checks: list[Run]) -> str:
    """The whole page as Markdown."""
    header = ("text", "seconds", "measured", "best of those", "the plan's", "behind by")
    known = [*runs, *checks]
    chosen = [row for text in law.texts for row in choices(law, text, known)]
    unseen = [
        row
        for text in law.texts
        for row in choices(fit_plan_law([run for run in runs if run.text != text]), text, known)
    ]
    off = sorted(abs(run.loss / law.loss(run) - 1) for run in checks)
    told = [
        f"{len(runs)} runs, of which {len(law.residuals)} have {FEWEST:,} tokens or more, long enough for the law; "
        f"root of the mean square of the residuals {law.noise:.2%}.",
        f"{len(checks)} runs were made afterwards, most of them of a larger network than any that it was fitted to. "
        f"It is off by {off[len(off) // 2]:.1%} in the median of them, by {off[-1]:.1%} at most.",
        f"Of {behind(chosen)}. The plan's loss falls with each longer time {falling(chosen)}. "
        f"Where each text is chosen for by a law of the seven others, of {behind(unseen)}.",
    ]
    constants, texts, residuals = tables(law, runs)
    afterwards = tables(law, checks)[-1]
    for head, *body in (constants, texts, [header, *chosen], afterwards, residuals):
        told.append("\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)))
    told += [f"![{text}: loss over time](images/law-{text}.png)" for text in law.texts]
    return HEAD + "\n\n".join(told) + "\n"


def behind(rows: list[tuple[str, ...]]) -> str:
    """How far choices are from the best that was measured, in words."""
    shares = sorted(float(row[-1].rstrip("%")) for row in rows)
    best = f"{shares.count(0.0)} are the best, the median is {shares[len(shares) // 2]:g}% behind and the worst"
    return f"{len(shares)} choices among the networks measured {best} {shares[-1]:g}%"


def falling(rows: list[tuple[str, ...]]) -> str:
    """On how many texts the plan's loss falls with each longer time, where there are two or more, in words."""
    losses: dict[str, list[float]] = {}
    for text, *_, ours, _ in rows:
        losses.setdefault(text, []).append(float(ours.rpartition(" ")[2]))
    several = [each for each in losses.values() if len(each) > 1]
    falls = [all(longer < shorter for shorter, longer in pairwise(each)) for each in several]
    return f"on {sum(falls)} of {len(falls)} texts"


def main() -> None:
    if len(sys.argv) > 1:
        runs, *others = (read_runs(Path(path)) for path in sys.argv[1:])
        checks = [run for each in others for run in each]
    else:
        runs, checks = read_runs(KEPT), read_runs(KEPT, "checks")
    law = fit_plan_law(runs)
    kept = {name: [asdict(run) for run in each] for name, each in (("runs", runs), ("checks", checks))}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(law, runs, checks), encoding="utf-8")
    for text in law.texts:
        picture(law, text, [*runs, *checks]).draw(PICTURES)
    print(f"ALPHA = {law.alpha:.3g}\nBETA = {law.beta:.3g}\nWORTH = {law.worth:.3g}\nRATIO = {law.ratio:.3g}")


if __name__ == "__main__":
    main()
