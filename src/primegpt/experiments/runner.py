"""`primegpt experiment FILE.toml`: all arms with all seeds, each job once, and what came of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from primegpt import __version__
from primegpt.errors import PrimegptError, require_within
from primegpt.experiments.analysis import Findings, analyse, foresee
from primegpt.experiments.board import Board
from primegpt.experiments.comparison import Comparison, compare
from primegpt.experiments.crew import Crew, failed
from primegpt.experiments.file import Experiment, find_file, read_experiment
from primegpt.experiments.functions import load_function
from primegpt.experiments.outcomes import curves, samples, value_of, values_of
from primegpt.experiments.page import write_page
from primegpt.experiments.perform import Doer
from primegpt.experiments.place import Place, Plan
from primegpt.experiments.stages import Job, Work, plan_work
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
    findings: Findings | None
    """Of the file's analysis, where it has one."""
    folder: Path
    report: Path


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
    place.make(asked.name)
    with RunLock(place.folder).hold():
        plan = Plan(place, processes)
        write_text_atomic(place.folder / "experiment.toml", asked.text)
        carry_out(asked, work, place, plan, processes, say)
        compared = comparisons(asked, work, place)
        found, findings = results(asked, work, place, compared), None
        if asked.analysis:
            findings, found["analysis"] = analyse(asked, work, place)
        write_json_atomic(place.folder / "results.json", found)
        report = write_page(
            place.folder,
            name=asked.name,
            question=asked.question,
            comparisons=compared,
            findings=findings,
            curves=curves(work, place),
            samples=samples(work, place),
            source=asked.text,
            facts=facts(asked, plan, found["steps"]),
        )
    return Found(compared, found, findings, place.folder, report)


def carry_out(asked: Experiment, work: Work, place: Place, plan: Plan, processes: int, say: Say) -> None:
    """Do all jobs that are not done. Raises PrimegptError, with the arm and the seed, as the one does that fails."""
    left = [job for job in work.jobs.values() if place.result(job) is None]
    measure = asked.measures[0]
    if asked.analysis:
        load_function(asked.analysis)  # now, and not when all is trained
    board = Board(work, place, lambda outcome: value_of(outcome, measure, place))
    with board.shown(say) as tell:
        doer = Doer(place, plan, tell)

        def attempt(act: Callable[[Job], None], job: Job) -> None:
            try:
                act(job)
            except PrimegptError as error:
                raise failed(job, error.what, error.remedy, error.exit_code) from error

        def begin(job: Job) -> None:
            tell(f"{left.index(job) + 1} of {len(left)}: {job.title}")
            attempt(doer.rehearse, job)

        def end(job: Job) -> None:
            for outcome in work.outcomes:
                for name, (of, _) in outcome.measures.items():
                    if of is job:
                        value_of(outcome, name, place)  # what has no such figure is said now, and not when all is done
                if outcome.measures[measure][0] is job:
                    tell(f"{measure} of {outcome.arm}, seed {outcome.seed}: {board.cell(outcome)}")

        def carry_out_all(jobs: Sequence[Job]) -> None:
            if processes > 1:
                Crew(processes, place).carry_out(jobs, begin, end)
                return
            for job in jobs:
                begin(job)
                attempt(doer.do, job)
                end(job)

        for job in left:
            if job.seed in (None, asked.seeds[0]):
                attempt(doer.check, job)
        for job in left:
            if not job.needs:  # one after the other, so that what else the machine does falls on all of them
                attempt(doer.rehearse, job)
        carry_out_all([job for job in left if job.key not in work.later])
        if asked.analysis:
            foresee(asked, work, place, doer.planned)
        carry_out_all([job for job in left if job.key in work.later])


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
        "steps": {arm.name: steps_of(arm.name, work, place) for arm in asked.arms},
        "comparisons": [asdict(each) for each in compared],
        "values": {measure: values_of(asked, work, place, measure) for measure in asked.measures},
    }


def facts(asked: Experiment, plan: Plan, steps: Mapping[str, int | None]) -> list[tuple[str, str]]:
    """The set-up in words."""
    machine = ", ".join(f"{key} {value}" for key, value in plan.values["machine"].items())
    told = [("primegpt", __version__), ("machine", machine), ("seeds", ", ".join(map(str, asked.seeds)))]
    return [*told, ("steps", ", ".join(f"{arm} {number:,}" for arm, number in steps.items() if number))]


def steps_of(arm: str, work: Work, place: Place) -> int | None:
    """Steps of the last training of an arm, with the first seed that did not diverge."""
    results = [place.result(outcome.run) or {} for outcome in work.outcomes if outcome.arm == arm]
    return next((result["step"] for result in results if "step" in result), None)
