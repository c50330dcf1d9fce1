"""Fit the law that plans go by to the runs in docs/law.json; write docs/law.md and its pictures.

python docs/fit_law.py                        the runs that are kept
python docs/fit_law.py runs/law/results.json  those of `primegpt experiment law`, which are kept from then on

The constants that it prints are those of src/primegpt/planning/law.py.
"""

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from primegpt.data.audit import GUARDED
from primegpt.experiments.plan_law import PlanLaw, Run, fit_plan_law, tables
from primegpt.planning import law as plans
from primegpt.planning.law import Network
from primegpt.planning.recipe import CHARACTERS, NETWORKS
from primegpt.report.chart import Series
from primegpt.report.pictures import Plot

FOLDER = Path(__file__).parent
KEPT, PAGE, PICTURES = FOLDER / "law.json", FOLDER / "law.md", FOLDER / "images"
RATE = plans.STATED_RATES["cpu"]
BUDGETS = [10 * 2 ** (half / 2) for half in range(18)]  # seconds

HEAD = """\
# The law that plans go by

Made from `docs/law.json` by `python docs/fit_law.py`; a test keeps the constants of `planning/law.py` those of this
fit. [How a plan is made](planning.md) has what the law says, and where the texts come from.

"""


def read_runs(path: Path) -> list[Run]:
    """The runs of a file of this folder, or of results.json of the experiment."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return [Run(**each) for each in values.get("analysis", {}).get("figures", values)["runs"]]


def picture(law: PlanLaw, text: str, runs: list[Run]) -> Plot:
    """Loss over seconds on two cores at the stated rate: networks as measured, and the best one by the law."""
    mine = [run for run in runs if run.text == text]
    series = [
        Series(f"{network.n_layer} x {network.n_embd}", [(x / math.log(10), math.exp(y)) for x, y in points], dots=True)
        for network, points in by_seconds(text, runs).items()
    ]
    line = []
    for seconds in BUDGETS:
        network = plans.best(NETWORKS[:6], seconds, RATE, "cpu", CHARACTERS, mine[0].distinct)
        tokens = round(plans.tokens_in(network, seconds, RATE, "cpu", CHARACTERS))
        line.append((math.log10(seconds), law.loss(Run(text, network.in_blocks, tokens, mine[0].distinct, 1.0))))
    series.append(Series("the plan's network, by the law", line))
    return Plot(f"law-{text}", text, series, "log10 of seconds", "loss")


def by_seconds(text: str, runs: list[Run]) -> dict[Network, list[tuple[float, float]]]:
    """Of each network, the logarithms of seconds and of loss, as measured, on two cores at the stated rate."""
    found: dict[Network, list[tuple[float, float]]] = {}
    for network in NETWORKS:
        a_second = plans.tokens_in(network, 1.0, RATE, "cpu", CHARACTERS)
        mine = [run for run in runs if run.text == text and run.in_blocks == network.in_blocks]
        if mine:
            found[network] = sorted((math.log(run.tokens / a_second), math.log(run.loss)) for run in mine)
    return found


def choices(runs: list[Run]) -> list[tuple[str, ...]]:
    """The network of a plan beside the best one as measured, between the measured runs where there are two or more."""
    rows: list[tuple[str, ...]] = [("text", "seconds", "best of those measured", "the plan's", "behind by")]
    for text in dict.fromkeys(run.text for run in runs):
        distinct = next(run.distinct for run in runs if run.text == text)
        for seconds in (4, 8, 16, 32, 64, 128, 256):
            losses = {
                network: math.exp(np.interp(math.log(seconds), [x for x, _ in points], [y for _, y in points]))
                for network, points in by_seconds(text, runs).items()
                if points[0][0] <= math.log(seconds) <= points[-1][0] and network.in_blocks * GUARDED <= distinct
            }
            if len(losses) > 1:
                best = min(losses, key=losses.__getitem__)
                ours = plans.best(list(losses), seconds, RATE, "cpu", CHARACTERS, distinct)
                behind = losses[ours] / losses[best] - 1
                rows.append((text, f"{seconds}", named(best, losses), named(ours, losses), f"{behind:.1%}"))
    return rows


def named(network: Network, losses: dict[Network, float]) -> str:
    return f"{network.n_layer} x {network.n_embd}: {losses[network]:.3f}"


def page(law: PlanLaw, runs: list[Run]) -> str:
    """The whole page as Markdown."""
    chosen = choices(runs)
    behind = sorted(float(row[-1].rstrip("%")) for row in chosen[1:])
    told = [
        f"{len(runs)} runs, of which {len(law.residuals)} are long enough for the law; root of the mean square of the "
        f"residuals {law.noise:.2%}. Of {len(behind)} choices among the networks measured the median is "
        f"{behind[len(behind) // 2]:g}% behind the best, the worst {behind[-1]:g}%."
    ]
    constants, texts, residuals = tables(law, runs)
    for header, *body in (constants, texts, chosen, residuals):
        told.append("\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *body)))
    told += [f"![{text}: loss over time](images/law-{text}.png)" for text in law.texts]
    return HEAD + "\n\n".join(told) + "\n"


def main() -> None:
    runs = read_runs(Path(sys.argv[1]) if len(sys.argv) > 1 else KEPT)
    law = fit_plan_law(runs)
    KEPT.write_text(json.dumps({"runs": [asdict(run) for run in runs]}, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(law, runs), encoding="utf-8")
    for text in law.texts:
        picture(law, text, runs).draw(PICTURES)
    print(f"ALPHA = {law.alpha:.3g}\nBETA = {law.beta:.3g}\nWORTH = {law.worth:.3g}\nRATIO = {law.ratio:.3g}")


if __name__ == "__main__":
    main()
