"""What the arms of an experiment came to, read from its folder: figures, curves, samples."""

from collections.abc import Mapping

from primegpt.errors import UsageError, nearest, quoted
from primegpt.experiments.file import Experiment
from primegpt.experiments.perform import figures_of, lines_of
from primegpt.experiments.place import Place
from primegpt.experiments.stages import Outcome, Work

CURVES = ("val/loss", "train/loss")


def value_of(outcome: Outcome, measure: str, place: Place) -> float | None:
    """The figure of one arm with one seed; None while it is not there. Raises UsageError where there is none such."""
    job, path = outcome.measures[measure]
    result = place.result(job)
    if result is None or (isinstance(result, Mapping) and "diverged" in result):
        return None
    found = figures_of(job, place)
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            known = list(found) if isinstance(found, Mapping) else []
            raise UsageError(f"measure {quoted(measure)}: {job.label} has no {quoted(name)}", nearest(name, known))
        found = found[name]
    if found is not None and (isinstance(found, bool) or not isinstance(found, int | float)):
        what = f"measure {quoted(measure)} of {job.label} is no number: {quoted(found)}"
        raise UsageError(what, "name one of its parts" if isinstance(found, Mapping) else "name another")
    return found


def values_of(asked: Experiment, work: Work, place: Place, measure: str) -> dict[str, dict[int, float | None]]:
    """The figures of a measure by arm and seed."""
    values: dict[str, dict[int, float | None]] = {arm.name: {} for arm in asked.arms}
    for outcome in work.outcomes:
        values[outcome.arm][outcome.seed] = value_of(outcome, measure, place)
    return values


def curves(work: Work, place: Place) -> dict[str, dict[str, dict[int, list[tuple[float, float | None]]]]]:
    """Losses over the steps: by key of metrics.jsonl, arm and seed."""
    found: dict[str, dict[str, dict[int, list[tuple[float, float | None]]]]] = {key: {} for key in CURVES}
    for outcome in work.outcomes:
        rows = lines_of(place.path(outcome.run))
        for key in CURVES:
            points = [(row["step"], row[key]) for row in rows if key in row]
            found[key].setdefault(outcome.arm, {})[outcome.seed] = points
    return found


def samples(work: Work, place: Place) -> dict[str, list[tuple[str, str]]]:
    """The last sample of each arm with the first seed."""
    found: dict[str, list[tuple[str, str]]] = {}
    for outcome in work.outcomes:
        written = sorted(place.path(outcome.run).glob("samples/step-*.txt"))
        if written and outcome.arm not in found:
            found[outcome.arm] = [("", written[-1].read_text(encoding="utf-8"))]
    return found
