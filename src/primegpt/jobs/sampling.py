"""A run's own answers, scored: the best of several as new answers, or a better and a worse one as preference pairs."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

from primegpt.config import DataConfig, GenerateConfig, Settings
from primegpt.errors import UsageError, listed, quoted, require_within
from primegpt.evaluation.rewards import Reward, parse
from primegpt.inference.context import Completion
from primegpt.inference.run import MAX_SAMPLES, Run, load
from primegpt.jobs.evaluation import MAX_LIMIT
from primegpt.jobs.growing import GrowingFile, checked_place
from primegpt.jobs.prompts import Prompted, read_prompts, written_to
from primegpt.jobs.text_loss import reading_of
from primegpt.run.checkpoint import fingerprint_of
from primegpt.terminal import Say, to_stderr

KEPT = ("themes", "answer", "length", "kind", "level")  # fields that go with a prompt, beside its labels
SAID_EVERY = 500  # prompts

Keep = Literal["best", "pairs"]


@dataclass(frozen=True)
class Sampled:
    """What came of it, in figures, and of a preview the samples themselves."""

    facts: dict[str, Any]
    previews: list[dict[str, Any]]


def sample(
    path: str | Path,
    prompts: str | Path,
    *,
    reward: Sequence[str],
    out: str | Path | None = None,
    num_samples: int = 4,
    keep: Keep = "best",
    at_least: float | None = None,
    limit: int | None = None,
    preview: int = 0,
    checkpoint: str | int = "best",
    settings: Settings | None = None,
    say: Say = to_stderr,
    **sampling: Any,
) -> Sampled:
    """Write `num_samples` answers to each record of `prompts` with the run at `path`, and keep what `reward` prefers.

    keep "best": the record with its best answer, if that is worth `at_least` so much. "pairs": `prompt`, `chosen` (the
    best) and `rejected` (the worst), unless they are worth the same. Labels and what rewards read stay. The file is
    `out`; stopped, the same call goes on. `preview` writes to so many prompts, and no file. `sampling` are settings of
    generation (temperature=1.0, seed=7). Raises UsageError before anything is written.
    """
    require_within("num_samples", num_samples, 2 if keep == "pairs" else 1, MAX_SAMPLES)
    require_within("limit", limit, 1, MAX_LIMIT)
    require_within("preview", preview, 0, 1000)
    if keep not in get_args(Keep):
        raise UsageError(f"keep = {quoted(keep)}", f"give one of {listed(get_args(Keep))}")
    if out is None and not preview:
        raise UsageError("there is no file to write to", "name one with --out, or look at some with --preview 3")
    if out is not None and not preview:
        checked_place(out, [str(prompts)])
    judged, run = parse(reward), load(path, checkpoint=checkpoint, say=say)
    chosen = run.chosen(**sampling)
    if num_samples > 1 and not chosen.temperature and chosen.num_beams == 1:
        raise UsageError("at temperature 0 all samples are the same", "give another --temperature")
    read = reading_of(run.config, str(prompts), settings, run.tokenizer)
    asked = read_prompts(run, read, limit=preview or limit, say=say)
    judged.check(each.document for each in asked)
    job = _Sampling(run, read, asked, judged, chosen, num_samples, keep, at_least)
    return job.preview() if preview or out is None else job.write(out, say)


@dataclass(frozen=True)
class _Sampling:
    """One call of `sample`, once all is read."""

    run: Run
    read: DataConfig
    prompts: Sequence[Prompted]
    reward: Reward
    settings: GenerateConfig
    num_samples: int
    keep: Keep
    at_least: float | None

    def preview(self) -> Sampled:
        previews = []
        for prompt, samples in zip(self.prompts, self.written(0), strict=True):
            scored = sorted(zip(self.scores(prompt, samples), samples, strict=True), key=lambda each: -each[0])
            shown = [{"reward": value, "text": each.text} for value, each in scored]
            previews.append({"prompt": prompt.text, "place": prompt.place, "samples": shown})
        return Sampled({}, previews)

    def write(self, out: str | Path, say: Say) -> Sampled:
        file = GrowingFile(out, self.made_of(), say)
        done = len(file.made)
        if done < len(self.prompts):
            say(f"writing {self.num_samples} answers to each of {len(self.prompts) - done:,} prompts")
        for number, (prompt, samples) in enumerate(zip(self.prompts[done:], self.written(done), strict=True), done + 1):
            values = self.scores(prompt, samples)
            file.add({"rewards": values, "record": self.record(prompt, [each.text for each in samples], values)})
            if number % SAID_EVERY == 0:
                say(f"{number:,} of {len(self.prompts):,} prompts")
        records = [made["record"] for made in file.made if made["record"] is not None]
        if not records:
            raise UsageError(f"nothing is worth keeping: {self.why_none()}", "ask for more samples, or another reward")
        file.finish(records)
        return Sampled({"file": str(file.path), **self.facts(file.made)}, [])

    def written(self, first: int) -> Iterator[list[Completion]]:
        return written_to(self.run, self.prompts[first:], self.settings, self.num_samples, first)

    def scores(self, prompt: Prompted, samples: Sequence[Completion]) -> list[float]:
        """What each of the samples is worth."""
        n, texts = len(samples), [each.text for each in samples]
        return self.reward([prompt.text] * n, texts, [prompt.record] * n, [prompt.place] * n)

    def record(self, prompt: Prompted, texts: Sequence[str], values: Sequence[float]) -> dict[str, Any] | None:
        """What is kept of a prompt's answers; None if nothing is."""
        best, worst = values.index(max(values)), values.index(min(values))
        if self.at_least is not None and values[best] < self.at_least:
            return None
        labels = (self.read.genre_field, self.read.emotion_field, *self.reward.needs, *KEPT)
        rest = {name: prompt.record[name] for name in dict.fromkeys(labels) if name in prompt.record}
        if self.keep == "best":
            return {**self.answered(prompt, texts[best]), **rest, "reward": values[best]}
        if values[best] == values[worst]:
            return None
        worth = {"chosen_reward": values[best], "rejected_reward": values[worst]}
        return {**self.pair(prompt, texts[best], texts[worst]), **rest, **worth}

    def answered(self, prompt: Prompted, text: str) -> dict[str, Any]:
        """A record that teaches `text` as the answer to the prompt."""
        if prompt.messages:
            return {"messages": [*prompt.messages, {"role": "assistant", "content": text}]}
        if self.read.template == "song":
            return {"prompt": prompt.text, "lyrics": text.strip()}
        if self.read.template == "response":
            return {"prompt": prompt.text, "response": text}
        return {"prompt": prompt.text, "text": self.run.tokenizer.decode(prompt.ids, skip_special_tokens=True) + text}

    def pair(self, prompt: Prompted, chosen: str, rejected: str) -> dict[str, Any]:
        """A record that prefers one answer to another, in the forms of TRL."""
        if prompt.messages:
            answers = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
            return {"prompt": list(prompt.messages), **dict(zip(("chosen", "rejected"), answers, strict=True))}
        texts = (text.strip() if self.read.template == "song" else text for text in (chosen, rejected))
        return {"prompt": prompt.text, **dict(zip(("chosen", "rejected"), texts, strict=True))}

    def made_of(self) -> Mapping[str, Any]:
        """All that decides the file."""
        records = [dict(each.record) for each in self.prompts]
        weights = self.run.folder.checkpoint_path(self.run.step)
        return {
            "weights": fingerprint_of(weights),
            "prompts": hashlib.sha256(ascii(records).encode()).hexdigest(),
            "ids": hashlib.sha256(repr([each.ids for each in self.prompts]).encode()).hexdigest(),
            "reward": self.reward.fingerprint,
            "generate": self.settings.model_dump(mode="json"),
            "num_samples": self.num_samples,
            "keep": self.keep,
            "at_least": self.at_least,
        }

    def facts(self, made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """How much was kept, and what it is worth beside the rest."""
        kept = [each["rewards"] for each in made if each["record"] is not None]
        facts = {
            "prompts": len(made),
            "kept": len(kept),
            "reward_of_all": fmean(value for each in made for value in each["rewards"]),
            "reward_of_best": fmean(map(max, kept)),
        }
        return facts | ({"reward_of_worst": fmean(map(min, kept))} if self.keep == "pairs" else {})

    def why_none(self) -> str:
        if self.at_least is not None:
            return f"no answer is worth {self.at_least:g}"
        return "all answers to a prompt are worth the same, of every prompt"
