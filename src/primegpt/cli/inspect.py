"""`primegpt info`, `primegpt report` and `primegpt doctor`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators


def info(
    target: Path | None = None,
    *,
    gpus: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    gpu: str = "h100",
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Parameters, FLOPs, memory and expected time of a run or a recipe, before it is trained.

    Parameters
    ----------
    target
        A run folder or a CONFIG.toml; the latest run when not given.
    gpus
        Forecast memory and time on so many GPUs, from stated rates.
    gpu
        Their kind: a100, h100, h200, b200, l40s, 4090.
    as_json
        Print JSON.
    """
    from primegpt import api

    if gpus is not None:
        planned = api.forecast(target, gpus, gpu)
        print(json.dumps([asdict(way) for way in planned], indent=2) if as_json else api.forecast_table(planned))
        return
    facts = api.info(target)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in api.describe(facts):
        print(f"{name:<22} {value}")


def report(*runs: Path, out: Path | None = None) -> None:
    """Write report.html: curves, samples over time, text, plan and settings of a run, or of several side by side.

    Parameters
    ----------
    runs
        Run folders; the latest run when none is given.
    out
        The file to write; report.html in the run's folder, or beside the first of several runs, when not given.
    """
    from primegpt import api

    print(api.report(*runs, out=out))


def doctor(*, as_json: Annotated[bool, Parameter(name="--json")] = False) -> int:
    """Tell what this machine can do, and whether a training step works on it.

    Parameters
    ----------
    as_json
        Print JSON.
    """
    from primegpt.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps([{"name": f.name, "value": f.value, "ok": f.ok} for f in findings], indent=2))
    else:
        marks = {None: " ", True: "✓", False: "✗"}
        encoding = sys.stdout.encoding or "ascii"
        for f in findings:
            print(f"{marks[f.ok]} {f.name:<16} {f.value}".encode(encoding, "replace").decode(encoding))
    return 1 if any(f.ok is False for f in findings) else 0
