"""What a run writes to the prompts of a file, and what rewards say of it: for right answers, its accuracy."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from primegpt.evaluation.mean import mean_of
from primegpt.evaluation.rewards import Reward
from primegpt.inference.run import Run
from primegpt.jobs.prompts import Prompted, written_to
from primegpt.terminal import Say, to_stderr


def measure_reward(run: Run, prompts: Sequence[Prompted], reward: Reward, say: Say = to_stderr) -> dict[str, Any]:
    """The mean reward of one text to each prompt, by the run's own generation settings, with 95% intervals.

    Under the name of each reward is its own mean, without its weight; `cut` is the share of texts that did not come
    to an end within `generate.max_new_tokens`.
    """
    settings = run.settings()
    say(f"writing {len(prompts):,} texts of at most {settings.max_new_tokens} tokens")
    written = [samples[0] for samples in written_to(run, prompts, settings)]
    asked = [each.text for each in prompts], [each.text for each in written], [each.record for each in prompts]
    by_name = reward.by_name(*asked, [each.place for each in prompts])
    values = reward.weighted(by_name)
    return {
        **asdict(mean_of(values)),
        "prompts": len(prompts),
        "temperature": settings.temperature,
        "mean_tokens": fmean(len(each.ids) for each in written),
        "cut": fmean(each.finish_reason == "length" for each in written),
        "rewards": {name: asdict(mean_of(column)) for name, column in by_name.items()},
    }
