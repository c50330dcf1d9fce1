"""`primegpt experiment FILE.toml`: all arms with all seeds, each job once, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from primegpt import __version__
from primegpt.errors import PrimegptError, UsageError, nearest, quoted, require_within
from primegpt.experiments.board import Board
from primegpt.experiments.comparison import Comparison, compare
from primegpt.experiments.crew import Crew, failed
from primegpt.experiments.file import Experiment, find_file, read_experiment
from primegpt.experiments.page import write_page
from primegpt.experiments.perform import Doer, figures_of, lines_of
from primegpt.experiments.place import Place, Plan
from primegpt.experiments.stages import Job, Outcome, Work, plan_work
from primegpt.run.atomic import write_json_atomic, write_text_atomic
from primegpt.run.lock import RunLock
from primegpt.terminal import Say, to_stderr


@dataclass(frozen=True)
class Found:
    """What an experiment found."""

    comparisons: list[Comparison]
    """One a measure, in the order of the file."""
    results: dict[str, Any]
    """As results.json has it."""
    folder: Path
    report: Path


CURVES = ("val/loss", "train/loss")
MOST_PROCESSES = 1024


def experiment(
    source: str | Path,
    out: str | Path | None = None,
    *,
    quick: bool = False,
    processes: int = 1,
    say: Say = to_stderr,
) -> Found:
    """Carry out the experiment `source`: every arm with every seed, and what tells them apart.

    `source` is a .toml file, or the name of an experiment that comes with primegpt.

    Everything lies in the folder `out` (runs/NAME). Carried out again, it goes on where it was stopped; with more seeds
    or arms in the file, only these are done. `processes` work at once. Raises ConfigError for a file that cannot be
    carried out, before anything is.
    """
    require_within("processes", processes, 1, MOST_PROCESSES)
    asked = read_experiment(find_file(source), quick=quick)
    work = plan_work(asked)
    place = Place(Path(out) if out else Path("runs") / asked.name)
    place.make()
    with RunLock(place.folder).hold():
        plan = Plan(place, processes)
        write_text_atomic(place.folder / "experiment.toml", asked.text)
        carry_out(asked, work, place, plan, processes, say)
        compared = comparisons(asked, work, place)
        found = results(asked, work, place, compared)
        write_json_atomic(place.folder / "results.json", found)
        report = write_page(
            place.folder,
            name=asked.name,
            question=asked.question,
            comparisons=compared,
            curves=curves(work, place),
            samples=samples(work, place),
            source=asked.text,
            facts=facts(asked, plan, found["steps"]),
        )
    return Found(compared, found, place.folder, report)


def carry_out(asked: Experiment, work: Work, place: Place, plan: Plan, processes: int, say: Say) -> None:
    """Do all jobs that are not done. Raises PrimegptError, with the arm and the seed, as the one does that fails."""
    left = [job for job in work.jobs.values() if place.result(job) is None]
    measure = asked.measures[0]
    board = Board(work, place, lambda outcome: value_of(outcome, measure, place))
    with board.shown(say) as tell:
        doer = Doer(place, plan, tell)
        for job in left:
            if job.seed in (None, asked.seeds[0]):
                doer.check(job)
        for job in left:
            if not job.needs:  # one after the other, so that what else the machine does falls on all of them
                doer.rehearse(job)

        def begin(job: Job) -> None:
            tell(f"{left.index(job) + 1} of {len(left)}: {job.title}")
            doer.rehearse(job)

        def end(job: Job) -> None:
            for outcome in work.outcomes:
                if outcome.measures[measure][0] is job:
                    tell(f"{measure} of {outcome.arm}, seed {outcome.seed}: {value_of(outcome, measure, place):.4g}")

        if processes > 1:
            Crew(processes, place).carry_out(left, begin, end)
            return
        for job in left:
            begin(job)
            try:
                doer.do(job)
            except PrimegptError as error:
                raise failed(job, error.what, error.remedy, error.exit_code) from error
            end(job)


def value_of(outcome: Outcome, measure: str, place: Place) -> float | None:
    """The figure of one arm with one seed; None while it is not there. Raises UsageError where there is none such."""
    job, path = outcome.measures[measure]
    if place.result(job) is None:
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


def comparisons(asked: Experiment, work: Work, place: Place) -> list[Comparison]:
    return [
        compare(measure, values_of(asked, work, place, measure), lower_is_better=asked.lower_is_better(measure))
        for measure in asked.measures
    ]


def results(asked: Experiment, work: Work, place: Place, compared: Sequence[Comparison]) -> dict[str, Any]:
    """What came out, as results.json has it: the same, byte for byte, however often it was stopped."""
    return {
        "name": asked.name,
        "question": asked.question,
        "seeds": list(asked.seeds),
        "arms": [arm.name for arm in asked.arms],
        "steps": {outcome.arm: (place.result(outcome.run) or {}).get("step") for outcome in work.outcomes},
        "comparisons": [asdict(each) for each in compared],
        "values": {measure: values_of(asked, work, place, measure) for measure in asked.measures},
    }


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
            found[outcome.arm] = [(written[-1].stem, written[-1].read_text(encoding="utf-8"))]
    return found


def facts(asked: Experiment, plan: Plan, steps: Mapping[str, int | None]) -> list[tuple[str, str]]:
    """The set-up in words."""
    machine = ", ".join(f"{key} {value}" for key, value in plan.values["machine"].items())
    told = [("primegpt", __version__), ("machine", machine), ("seeds", ", ".join(map(str, asked.seeds)))]
    return [*told, ("steps", ", ".join(f"{arm} {number:,}" for arm, number in steps.items() if number))]
