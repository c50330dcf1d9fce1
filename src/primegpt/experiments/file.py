"""An experiment as its file says it: a question, arms, seeds, a budget, and what is measured.

name = "qk-norm"
question = "Does it help to normalise queries and keys?"
seeds = 5
budget.seconds = 20
measure = ["val/loss"]
data.sources = ["shakespeare.txt"]

[[arm]]
name = "with"

[[arm]]
name = "without"
model.qk_norm = false
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from primegpt.config import BUDGETS, Config, Layer, Settings, check, read_toml
from primegpt.errors import ConfigError, nearest, quoted

SEEDS = 1337  # the first, where only their number is given
MOST_ARMS, MOST_SEEDS, MOST_STAGES = 1000, 1000, 32
SECTIONS = tuple(name for name in Config.model_fields if name != "plan")
TRAINING = ("train", "finetune", "reinforce")
DATA = ("data songbook", "data tasks", "data instruct", "data sample")  # what writes records
STAGES = (*TRAINING, "evaluate", "tokenizer", *DATA)  # and functions: FILE.py:name
HIGHER = (
    "acc",
    "acc_norm",
    "reward.mean",
    "reward",
    "lift",
    "words",
    "theme",
    "genre",
    "emotion",
    "information",
    "tokens_per_sec",
    "mfu",
)
LOWER = ("loss", "perplexity", "bits_per_byte", "seconds", "grad_norm")  # how the names of what should be low end

Name = Annotated[str, Field(min_length=1, max_length=100)]
Grid = dict[str, dict[str, Annotated[list[Any], Field(min_length=1)]]]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Budget(_Table):
    """How much each training may do: one of these."""

    steps: Annotated[int, Field(ge=1, le=10**9)] | None = None
    tokens: Annotated[int, Field(ge=1, le=10**15)] | None = None
    flops: Annotated[float, Field(gt=0, le=1e30)] | None = None
    seconds: Annotated[float, Field(gt=0, le=1e8)] | None = None
    """Of the processor, over all its cores: what else the machine does counts for little."""

    @model_validator(mode="after")
    def _one(self) -> "Budget":
        if len(self.model_fields_set) != 1:
            raise ValueError("give one of steps, tokens, flops and seconds")
        return self


class _StageTable(_Table):
    """Keys beside these are settings, or arguments of what it does."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    do: Name
    name: Name = ""
    budget: Budget | None = None


class _ArmTable(_Table):
    model_config = ConfigDict(extra="allow", frozen=True)

    name: Annotated[str, Field(max_length=100)]
    after: bool = False
    budget: Budget | None = None
    grid: Grid = {}
    set: dict[str, Any] = {}
    stage: Annotated[list[dict[str, Any]], Field(max_length=MOST_STAGES)] = []


class _File(_Table):
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: Name = ""
    question: Annotated[str, Field(max_length=1000)] = ""
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)] | Annotated[list[int], Field(min_length=1)] = 3
    budget: Budget = Budget(steps=300)
    measure: Annotated[list[Name], Field(min_length=1)] = ["text.loss"]
    better: dict[str, Literal["lower", "higher"]] = {}
    checkpoint: Literal["last", "best"] = "last"
    evaluate: dict[str, Any] = {}
    set: dict[str, Any] = {}
    stage: Annotated[list[dict[str, Any]], Field(max_length=MOST_STAGES)] = []
    arm: Annotated[list[_ArmTable], Field(max_length=MOST_ARMS)] = []
    grid: Grid = {}
    analysis: Name | None = None

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: int | list[int]) -> int | list[int]:
        if isinstance(seeds, list) and len(set(seeds)) < len(seeds):
            raise ValueError("a seed stands there twice")
        return seeds


@dataclass(frozen=True)
class Stage:
    """One step of an arm."""

    do: str
    name: str
    said: Mapping[str, Any]
    """Arguments of what is done; of a training its `settings` and `budget`, and `from`, what it goes on with."""


@dataclass(frozen=True)
class Arm:
    """What is compared with others: stages that follow each other, the shared ones first."""

    name: str
    stages: tuple[Stage, ...]
    evaluate: Mapping[str, Any]
    """How its last run is evaluated."""
    after: bool
    """Trained only when the others have ended and the analysis has said what it expects."""


@dataclass(frozen=True)
class Experiment:
    """A file that has been read: everything in it is well formed, and names what there is."""

    name: str
    question: str
    seeds: tuple[int, ...]
    measures: tuple[str, ...]
    better: Mapping[str, str]
    checkpoint: str
    extension: str
    """The file with parts of one's own, which may register measures; "" if there is none."""
    arms: tuple[Arm, ...]
    analysis: str | None
    """A function that is given all that came out: FILE.py:name or package.module:name."""
    text: str
    """The file itself."""

    def lower_is_better(self, measure: str) -> bool | None:
        """As the file says; else by the name: a loss should be low, an accuracy high. None where neither is known."""
        if said := self.better.get(measure):
            return said == "lower"
        return True if measure.endswith(LOWER) else False if measure.endswith(HIGHER) else None


def shipped() -> list[str]:
    """The experiments that come with the package, by name."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.toml"))


def find_file(source: str | Path) -> Path:
    """The file of an experiment: its path, or a name of `shipped`. Raises ConfigError for neither."""
    if str(source).endswith(".toml"):
        return Path(source)
    if str(source) not in shipped():
        raise ConfigError(
            f"there is no experiment {quoted(str(source))}", f"{nearest(str(source), shipped())}, or FILE.toml"
        )
    return Path(__file__).with_name(f"{source}.toml")


def read_experiment(path: Path, *, quick: bool = False) -> Experiment:
    """The experiment in the TOML file `path`; `quick`, with what its table [quick] says, or with one seed.

    Raises ConfigError, a line that names the place in the file.
    """
    values = dict(read_toml(path).values)
    shortened = values.pop("quick", {"seeds": 1})
    if not isinstance(shortened, Mapping):
        raise ConfigError(f"{path}: quick = {quoted(shortened)}", "it is a table: [quick] and keys below it")
    values = laid_over(values, shortened) if quick else values
    try:
        file = _File.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explained(error)}") from None
    arms = tuple(_arms(file, str(path)))
    refuse_twins(arms, path)
    if any(arm.after for arm in arms) and (not file.analysis or all(arm.after for arm in arms)):
        raise ConfigError(f"{path}: arms with after = true have nothing to come after", "analysis, and arms without")
    for measure in file.better.keys() - set(file.measure):
        raise ConfigError(f"{path}: better.{measure} is of nothing that is measured", nearest(measure, file.measure))
    seeds = range(SEEDS, SEEDS + file.seeds) if isinstance(file.seeds, int) else file.seeds
    return Experiment(
        name=file.name or path.stem,
        question=file.question,
        seeds=tuple(seeds),
        measures=tuple(dict.fromkeys(file.measure)),
        better=file.better,
        checkpoint=file.checkpoint,
        extension=str((file.model_extra or {}).get("extension") or ""),
        arms=arms,
        analysis=file.analysis,
        text=path.read_text(encoding="utf-8-sig"),
    )


def _arms(file: _File, origin: str) -> Iterator[Arm]:
    """Every arm at every point of the file's grid and of its own."""
    tables = file.arm or [_ArmTable(name="")]
    grids = [
        {f"{section}.{key}": values for section, keys in laid_over(file.grid, table.grid).items()
         for key, values in keys.items()}
        for table in tables
    ]  # fmt: skip
    count = sum(math.prod(map(len, grid.values())) for grid in grids)
    if count > MOST_ARMS:
        raise ConfigError(f"{origin}: the grid makes {count:,} arms", f"at most {MOST_ARMS:,}")
    if not file.arm and count < 2:
        raise ConfigError(f"{origin} has nothing to compare", "add [[arm]] tables, or a [grid] of values")
    for table, grid in zip(tables, grids, strict=True):
        for values in product(*grid.values()):
            yield _arm(file, table, dict(zip(grid, values, strict=True)), origin)


def _arm(file: _File, table: _ArmTable, chosen: Mapping[str, Any], origin: str) -> Arm:
    """One arm, with the values that are `chosen` of the grid.

    Settings of the file are those of all that is trained from scratch. Settings of an arm, its budget, and the grid's,
    are those of its own stages; where it has none, of the last stage that trains.
    """
    told = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in chosen.items())
    name = ", ".join(part for part in (table.name, told) if part)
    origin = f"{origin}, arm {quoted(name)}"
    point = nested(chosen)
    values = file.set | table.set | point.pop("set", {})
    shared = _sections(_filled(file.model_extra or {}, values), origin)
    extension = {"extension": shared["extension"]} if "extension" in shared else {}
    particular = _sections(laid_over(extension | _filled(table.model_extra or {}, values), point), origin)
    stages = [_parsed(_filled(stage, values), origin) for stage in (*file.stage, *table.stage)]
    own = len(file.stage)
    if not any(stage.do in TRAINING for stage in stages):
        stages.append(_StageTable(do="train"))
    if not any(stage.do in TRAINING for stage in stages[own:]):
        own = max(number for number, stage in enumerate(stages) if stage.do in TRAINING)
    made = list[Stage]()
    for number, stage in enumerate(stages):
        below = shared if stage.do == "train" else {}
        budget = (table.budget if number >= own else None) or file.budget
        made.append(_stage(stage, laid_over(below, particular) if number >= own else below, budget, file, origin))
    if (file.model_extra or {}).keys() - {"extension"} and not any(stage.do == "train" for stage in stages):
        raise ConfigError(f"{origin}: nothing is trained from scratch", "give the settings at the top to a stage")
    return Arm(name, tuple(made), _filled(file.evaluate, values), table.after)


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    """`value` with what [set] gives for each "@NAME" that it names."""
    if isinstance(value, Mapping):
        return {key: _filled(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    return values.get(value[1:], value) if isinstance(value, str) and value.startswith("@") else value


def _parsed(stage: Mapping[str, Any], origin: str) -> _StageTable:
    try:
        return _StageTable.model_validate(stage)
    except ValidationError as error:
        raise ConfigError(f"{origin}, stage {quoted(stage.get('do'))}: {_explained(error)}") from None


def _stage(table: _StageTable, settings: Settings, budget: Budget, file: _File, origin: str) -> Stage:
    """A stage with all that it is to be done with; `settings` and `budget` are below its own."""
    origin = f"{origin}, stage {quoted(table.name or table.do)}"
    said = dict(table.model_extra or {})
    if table.do not in STAGES and ":" not in table.do:
        remedy = f"{nearest(table.do, STAGES)}, or FILE.py:function"
        raise ConfigError(f"{origin}: do = {quoted(table.do)} is no stage", remedy)
    if table.do in TRAINING:
        own = {section: said.pop(section) for section in SECTIONS if section in said}
        _check({name: settings[name] for name in ("extension",) if name in settings} | own, origin)
        known = ("recipe",) if table.do == "train" else ("from", "recipe", "checkpoint")
        if unknown := next((key for key in said if key not in known), None):
            raise ConfigError(f"{origin}: unknown key {quoted(unknown)}", nearest(unknown, (*SECTIONS, *known)))
        said["settings"] = laid_over(settings, own)
        said["budget"] = (table.budget or budget).model_dump(exclude_none=True)
    if table.do in ("finetune", "reinforce", "evaluate", "data sample"):
        said = {"from": "@last", **said}
    if table.do in ("evaluate", "data sample"):
        said = {"checkpoint": file.checkpoint, **said}
    return Stage(table.do, table.name or table.do.rpartition(":")[2].split()[-1], said)


def nested(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`{"train.seed": 1}` as `{"train": {"seed": 1}}`."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        section, _, name = key.partition(".")
        found.setdefault(section, {})[name] = value
    return found


def refuse_twins(arms: tuple[Arm, ...], path: Path) -> None:
    """Raise ConfigError for two arms of one name, or stages of an arm that cannot be told apart."""
    names = [arm.name for arm in arms]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{path}: two arms are called {quoted(twice)}", "give each a name of its own")
    for arm in arms:
        names = ["last", "seed", *(stage.name for stage in arm.stages)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(
                f"{path}, arm {quoted(arm.name)}: a stage cannot be called {quoted(twice)}, which is taken",
                "name = ...",
            )


def _sections(values: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """`values` as sections of a configuration. Raises ConfigError for what is none, and for wrong settings."""
    known = (*SECTIONS, *_File.model_fields)
    if unknown := next((name for name in values if name not in SECTIONS), None):
        raise ConfigError(f"{origin}: unknown key {quoted(unknown)}", nearest(unknown, known))
    _check(values, origin)
    return dict(values)


def _check(values: Mapping[str, Any], origin: str) -> None:
    """Raise ConfigError for wrong settings, and for those that the experiment itself has to say."""
    check(Layer(values, origin))
    train = values.get("train", {})
    if budgets := sorted(BUDGETS & train.keys()):
        raise ConfigError(f"{origin}: train.{budgets[0]} is the experiment's", "budget.steps, tokens, flops or seconds")
    if "seed" in train:
        raise ConfigError(f"{origin}: train.seed is the experiment's", "seeds = [1, 2, 3] at the top")


def laid_over(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """`low` with `high` on top, table by table."""
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping) and key != "budget"
        merged[key] = laid_over(below, value) if both else value
    return merged


def _explained(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, with the place: `arm 2, stage 1, do`."""
    found = error.errors(include_url=False)[0]
    place = [f"{part + 1}" if isinstance(part, int) else str(part) for part in found["loc"]]
    message = found["msg"].removeprefix("Value error, ")
    return f"{' '.join(place)} = {quoted(found['input'])}: {message[0].lower()}{message[1:]}"
